"""Labels are scored as lm-evaluation-harness scores continuations: the same tokens, log-likelihoods and winners.

Its rule for tokens (`HFLM._encode_pair`): white space at the end of the context moves to the continuation; the
continuation's tokens are those of the whole text behind as many as the context has. The rule is written out
below; the harness itself is asked where it is installed (`pip install lm-eval`).
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tests.model.tiny import build_engine, run
from tests.model.tokenizer_examples import KINDS, Example, write_example
from tirazh.model.requests import LabelScores, ScoreRequest
from tirazh.model.tokenizer import load_tokenizer
from tirazh.pipeline import schema
from tirazh.pipeline.prompts.encode import PromptStep, cached_tokenizer
from tirazh.pipeline.prompts.prepare import prepare_prompts
from tirazh.pipeline.prompts.source import prompt_source
from tirazh.pipeline.spec import ClassifySpec

NUM_ROWS = 500
LABELS = {"a": "sport", "b": "экономика", "c": "New York", "d": "7"}
WORDS = ("банк", "team", "won", "спорт", "7", "culture,", "и", "матч.", "«Тема»", "y")
TEMPLATES = ("{{ text }} Topic:", "{{ text }}")


@pytest.fixture(scope="module", params=[(kind, seed) for kind in KINDS for seed in (0, 1)], ids=str)
def example(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Example:
    kind, seed = request.param
    return write_example(tmp_path_factory.mktemp("tokenizer"), kind, seed)


def texts(count: int) -> list[str]:
    pick = random.Random(0)
    return [" ".join(pick.choices(WORDS, k=pick.randint(1, 6))) for _ in range(count)]


def our_prompts(folder: Path, template: str, rows: list[str]) -> tuple[list[tuple[int, ...] | None], Any]:
    """Return the prompts' tokens (None: an error) and the engine's job, as `tirazh classify` makes them."""
    spec = ClassifySpec(input=("in",), output="out", labels=LABELS, template=template)
    cached_tokenizer.cache_clear()
    prepared = prepare_prompts(
        spec, load_tokenizer(str(folder)), prompt_source(spec), tokenizer_dir=str(folder), seq_length=128
    )
    table = pa.table({"text": rows, schema.PART: [0] * len(rows), schema.REPETITION: range(len(rows))})
    made = PromptStep(prepared.config)(table)
    ids = made.column(schema.PROMPT_IDS).to_pylist()
    return [None if row_ids is None else tuple(row_ids) for row_ids in ids], prepared.engine_job


def encode_pair(theirs: Any, ends: bool, context: str, continuation: str) -> tuple[list[int], list[int]]:
    num_spaces = len(context) - len(context.rstrip())
    if num_spaces:
        context, continuation = context[:-num_spaces], context[-num_spaces:] + continuation
    whole, head = (theirs(text).input_ids for text in (context + continuation, context))
    if ends:  # an end token behind the prompt is no part of it
        whole, head = whole[:-1], head[:-1]
    return head, whole[len(head) :]


@pytest.mark.parametrize("template", TEMPLATES)
def test_prompts_and_labels_have_the_tokens_of_the_pair_rule(example: Example, template: str) -> None:
    theirs = AutoTokenizer.from_pretrained(str(example.folder))
    rows = texts(40)
    prompts, job = our_prompts(example.folder, template, rows)
    assert any(prompts)
    for row, prompt in zip(rows, prompts, strict=True):
        context = template.replace("{{ text }}", row)
        pairs = [encode_pair(theirs, example.puts_end, context, f" {words}") for words in LABELS.values()]
        labels = [continuation for _, continuation in pairs]
        if prompt is None:  # an error: behind this prompt the labels have other tokens
            assert labels != [list(label) for label in job.labels]
        else:
            assert pairs == [(list(prompt), list(label)) for label in job.labels]


def tiny_llama(size: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=size, initializer_range=0.3, **sizes)).eval()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["byte level", "old llama"])
def test_the_harness_gives_the_same_winners_and_log_likelihoods(kind: str, tmp_path: Path) -> None:
    harness = pytest.importorskip("lm_eval.models.huggingface", reason="lm-evaluation-harness is not installed")
    from lm_eval.api.instance import Instance

    folder = write_example(tmp_path, kind, seed=1).folder
    ours, rows = load_tokenizer(str(folder)), texts(NUM_ROWS)
    model = tiny_llama(ours.size)
    asked = [
        Instance("loglikelihood", {}, (f"{row} Topic:", f" {words}"), index)
        for index, (row, words) in enumerate((row, words) for row in rows for words in LABELS.values())
    ]
    theirs = AutoTokenizer.from_pretrained(str(folder), pad_token="</s>")
    judge = harness.HFLM(
        pretrained=model, tokenizer=theirs, batch_size=50, max_length=128, add_bos_token=bool(ours.prefix_token_ids)
    )
    right = [score for score, _ in judge.loglikelihood(asked, disable_tqdm=True)]
    prompts, job = our_prompts(folder, TEMPLATES[0], rows)
    engine = build_engine(model, job=job, max_length=128, num_tokens=ours.size)
    results = run(engine, [ScoreRequest(prompt_token_ids=prompt) for prompt in prompts])
    same, count = 0, len(LABELS)
    for index, result in enumerate(results):
        assert isinstance(result, LabelScores)
        scores, wanted = list(result.logprobs), right[index * count : (index + 1) * count]
        assert scores == pytest.approx(wanted, abs=1e-3)
        same += scores.index(max(scores)) == wanted.index(max(wanted))
    assert same >= 0.99 * NUM_ROWS
