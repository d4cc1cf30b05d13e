"""Labels are scored as lm-evaluation-harness scores continuations: the same tokens, log-likelihoods and winners.

Its rule for tokens (`HFLM._encode_pair`): white space at the end of the context moves to the continuation; the
continuation's tokens are those of the whole text behind as many as the context has. The rule is written out
below, with a plain forward of transformers; the harness itself is asked where it is installed (`pip install lm-eval`).
Of its log-likelihoods `mean` is the quotient by the number of tokens, and `pmi` the difference from the one after the
end of the template alone (its `acc_mutual_info` has an empty context there).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from tests.model.tiny import use_threads
from tests.model.tokenizer_examples import KINDS, Example, write_example
from tests.pipeline.prompts.scored_rows import MAX_LENGTH, label_scores, prepare, prompts_of, tiny_llama
from tirazh.model.tokenizer import load_tokenizer
from tirazh.pipeline import schema

NUM_ROWS = 200
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
    prepared = prepare(folder, labels=LABELS, template=template)
    ids = prompts_of(prepared, rows).column(schema.PROMPT_IDS).to_pylist()
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


def log_likelihood(model: Any, context: list[int], continuation: list[int]) -> float:
    """The sum of the log-probabilities of the continuation, as the harness computes it (`_loglikelihood_tokens`):
    one forward of the whole sequence without its last token."""
    whole = torch.tensor([context + continuation])
    with torch.inference_mode():
        logits = model(whole[:, :-1]).logits[0].float()
    logprobs = torch.log_softmax(logits, dim=-1)[-len(continuation) :]
    return float(logprobs[range(len(continuation)), continuation].sum())


def scored(sums: Any, premise: Any, lengths: Any, scoring: str) -> Any:
    """Our three scores from log-likelihoods [N, labels], those after the premise and the numbers of tokens [labels]."""
    return {"sum": sums, "mean": sums / np.array(lengths), "pmi": sums - np.array(premise)}[scoring]


def compare(folder: Path, model: Any, rows: list[str], score: Callable[[str, str], tuple[float, int]]) -> None:
    """Compare our scores with those of `score`, which returns the log-likelihood of a continuation and its tokens."""
    words = [f" {text}" for text in LABELS.values()]
    sums = np.array([[score(f"{row} Topic:", text)[0] for text in words] for row in rows])
    premise = [score(" Topic:", text)[0] for text in words]
    lengths = [score(" Topic:", text)[1] for text in words]
    for scoring in ("sum", "mean", "pmi"):
        wanted = scored(sums, premise, lengths, scoring)
        ours = label_scores(prepare(folder, labels=LABELS, template=TEMPLATES[0], scoring=scoring), model, rows)
        assert ours == pytest.approx(wanted, abs=1e-3)
        same = (ours.argmax(axis=1) == wanted.argmax(axis=1)).mean()
        print(
            f"{scoring}: largest difference {abs(ours - wanted).max():.1e}, same label {same:.1%} of {len(rows)} rows"
        )
        assert same >= 0.99


@pytest.mark.parametrize("kind", ["byte level", "old llama"])
def test_all_scorings_agree_with_plain_forwards_of_transformers(kind: str, tmp_path: Path) -> None:
    example = write_example(tmp_path, kind, seed=1)
    theirs, model = AutoTokenizer.from_pretrained(str(example.folder)), tiny_llama(load_tokenizer(str(tmp_path)).size)

    def score(context: str, continuation: str) -> tuple[float, int]:
        head, words = encode_pair(theirs, example.puts_end, context, continuation)
        return log_likelihood(model, head, words), len(words)

    with use_threads(1):
        compare(example.folder, model, texts(NUM_ROWS), score)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["byte level", "old llama"])
def test_all_scorings_agree_with_the_harness(kind: str, tmp_path: Path) -> None:
    harness = pytest.importorskip("lm_eval.models.huggingface", reason="lm-evaluation-harness is not installed")
    from lm_eval.api.instance import Instance

    example = write_example(tmp_path, kind, seed=1)
    ours, rows = load_tokenizer(str(example.folder)), texts(NUM_ROWS)
    model, theirs = tiny_llama(ours.size), AutoTokenizer.from_pretrained(str(example.folder), pad_token="</s>")
    judge = harness.HFLM(
        pretrained=model,
        tokenizer=theirs,
        batch_size=50,
        max_length=MAX_LENGTH,
        add_bos_token=bool(ours.prefix_token_ids),
    )
    contexts = [*(f"{row} Topic:" for row in rows), " Topic:"]
    pairs = [(context, f" {words}") for context in contexts for words in LABELS.values()]
    asked = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]
    found = dict(zip(pairs, judge.loglikelihood(asked, disable_tqdm=True), strict=True))

    def score(context: str, continuation: str) -> tuple[float, int]:
        _, words = encode_pair(theirs, example.puts_end, context, continuation)
        return found[context, continuation][0], len(words)

    compare(example.folder, model, rows, score)
