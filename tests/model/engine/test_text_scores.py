"""Log-likelihoods of texts and completions: those of the whole forward pass, whatever runs beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from tests.model.tiny import NUM_TOKENS, build_engine, full_logits, random_prompts, run, tiny_model
from tirazh.model.engine import runner as runner_module
from tirazh.model.engine.sliced_logits import rows_at_once
from tirazh.model.layers.packed_linear import pack_linears
from tirazh.model.requests import Completion, EngineJob, GenerateRequest, SamplingParams, TextScore, TextScoreRequest

LENGTHS = (2, 3, 15, 16, 17, 33, 64, 65, 100, 190)
CONTEXTS = (1, 1, 2, 16, 5, 20, 1, 64, 50, 3)
TEXTS = random_prompts(LENGTHS)
PREFIX = random_prompts([20], seed=3)[0]
SETTINGS = {"max_length": 200, "prefill_rows": 64, "decode_rows": 8}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    made = tiny_model(num_layers=2)
    pack_linears(made, rows=8)
    return made


def reference(model: nn.Module, tokens: Sequence[int], first: int) -> float:
    """The sum of log P(token | all before it) over the tokens from `first` on, in float64."""
    logits_NV: Tensor = full_logits(model, tokens)[:, :NUM_TOKENS].double()
    terms = torch.log_softmax(logits_NV, -1)[torch.arange(first - 1, len(tokens) - 1), list(tokens[first:])]
    return float(terms.sum())


def requests(prefix: tuple[int, ...] = ()) -> list[TextScoreRequest]:
    return [
        TextScoreRequest(token_ids=prefix + text, num_context=len(prefix) + context)
        for text, context in zip(TEXTS, CONTEXTS, strict=True)
    ]


def scores(
    model: nn.Module, asked: Sequence[TextScoreRequest], *, slots: int = 8, job: EngineJob | None = None
) -> list[TextScore]:
    results = run(build_engine(model, num_slots=slots, job=job or EngineJob(), **SETTINGS), asked)
    assert all(isinstance(result, TextScore) for result in results)
    return [result for result in results if isinstance(result, TextScore)]


def test_a_text_s_score_is_that_of_one_forward_pass(model: nn.Module) -> None:
    for request, score in zip(requests(), scores(model, requests()), strict=True):
        expected = reference(model, request.token_ids, request.num_context)
        assert score.num_tokens == len(request.token_ids) - request.num_context
        assert score.logprob == pytest.approx(expected, abs=2e-5 * max(1, score.num_tokens))


@pytest.mark.parametrize("slots", [1, 3, 8])
def test_a_score_has_the_same_bits_for_any_slots_order_and_neighbours(model: nn.Module, slots: int) -> None:
    alone = [scores(model, [request], slots=1)[0] for request in requests()]
    assert scores(model, requests(), slots=slots) == alone
    assert scores(model, requests()[::-1], slots=slots) == alone[::-1]


def test_a_context_shared_by_all_texts_is_read_once(model: nn.Module) -> None:
    job = EngineJob(prefix_token_ids=PREFIX[:-1])
    asked = requests(PREFIX)[:-1]
    for request, score in zip(asked, scores(model, asked, job=job), strict=True):
        expected = reference(model, request.token_ids, request.num_context)
        assert score.logprob == pytest.approx(expected, abs=2e-5 * max(1, score.num_tokens))


def test_logits_in_slices_give_the_same_bits(model: nn.Module) -> None:
    whole = scores(model, requests())
    assert rows_at_once(320, 8) > 64
    with patch.object(runner_module, "rows_at_once", lambda *_: 8):
        assert scores(model, requests()) == whole


def test_an_empty_text_is_certain(model: nn.Module) -> None:
    assert scores(model, [TextScoreRequest(token_ids=(5,), num_context=1)]) == [TextScore(logprob=0.0, num_tokens=0)]


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (TextScoreRequest(token_ids=(1, 2), num_context=0), "the text has no context"),
        (TextScoreRequest(token_ids=(1,) * 202, num_context=1), "has 202 tokens with its context; at most 201 fit"),
        (TextScoreRequest(token_ids=(1, 999), num_context=1), "a token id outside 0 to 309"),
    ],
)
def test_a_text_that_cannot_be_scored_gets_a_sentence(
    model: nn.Module, request_: TextScoreRequest, sentence: str
) -> None:
    (score,) = scores(model, [request_])
    assert score.logprob is None
    assert sentence in (score.error or "")


def test_the_longest_text_fills_the_context(model: nn.Module) -> None:
    (text,) = random_prompts([201])
    (score,) = scores(model, [TextScoreRequest(token_ids=text, num_context=1)])
    assert score.num_tokens == 200


def test_texts_and_completions_share_the_slots(model: nn.Module) -> None:
    generate = [
        GenerateRequest(prompt_token_ids=text, sampling=SamplingParams(max_new_tokens=5), seed=seed)
        for seed, text in enumerate(TEXTS[:4])
    ]
    mixed = run(build_engine(model, num_slots=3, **SETTINGS), [*requests(), *generate])
    assert mixed == [*scores(model, requests()), *run(build_engine(model, num_slots=3, **SETTINGS), generate)]


def test_a_model_that_gives_nan_fails_the_text_and_not_its_neighbour(model: nn.Module) -> None:
    poisoned = tiny_model(num_layers=2)
    pack_linears(poisoned, rows=8)
    with torch.no_grad():
        poisoned.get_input_embeddings().weight[7] = torch.nan
    bad, good = (3, *[7] * 40, 4), tuple(token for token in TEXTS[6] if token != 7)
    asked = [TextScoreRequest(token_ids=each, num_context=1) for each in (bad, good)]
    first, second = scores(poisoned, asked, slots=1)
    assert first.error == "the model produced non-finite logits for this text"
    assert second.logprob is not None
    assert math.isfinite(second.logprob)


# Completions


PENALISED = SamplingParams(
    max_new_tokens=12, temperature=0.7, top_p=0.9, repetition_penalty=1.3, frequency_penalty=0.5, logit_bias=((3, 4.0),)
)


@pytest.mark.parametrize("params", [SamplingParams(max_new_tokens=12, temperature=0), PENALISED], ids=["greedy", "all"])
def test_a_completion_s_logprob_is_that_of_its_tokens_under_the_model(model: nn.Module, params: SamplingParams) -> None:
    asked = [GenerateRequest(prompt_token_ids=text, sampling=params, seed=seed) for seed, text in enumerate(TEXTS)]
    for text, result in zip(TEXTS, run(build_engine(model, **SETTINGS), asked), strict=True):
        assert isinstance(result, Completion)
        tokens = (*text, *result.token_ids)
        assert result.logprob == pytest.approx(reference(model, tokens, len(text)), abs=2e-5 * len(result.token_ids))


def test_the_end_token_counts(model: nn.Module) -> None:
    params = SamplingParams(max_new_tokens=60)
    ends = tuple(range(0, 310, 10))
    asked = [GenerateRequest(prompt_token_ids=text, sampling=params, seed=seed) for seed, text in enumerate(TEXTS)]
    stopped = 0
    for text, seed_result in zip(TEXTS, run(build_engine(model, end_token_ids=ends, **SETTINGS), asked), strict=True):
        assert isinstance(seed_result, Completion)
        if seed_result.finish_reason != "stop":
            continue
        stopped += 1
        tokens = (*text, *seed_result.token_ids)
        candidates = [reference(model, (*tokens, end), len(text)) for end in ends]
        assert min(abs((seed_result.logprob or 0) - each) for each in candidates) < 1e-3
    assert stopped


def test_no_end_before_the_least_number_of_tokens(model: nn.Module) -> None:
    ends = tuple(range(0, 310, 2))  # about every second token ends a completion
    params = SamplingParams(max_new_tokens=20, min_new_tokens=9)
    asked = [GenerateRequest(prompt_token_ids=text, sampling=params, seed=seed) for seed, text in enumerate(TEXTS)]
    results = run(build_engine(model, end_token_ids=ends, **SETTINGS), asked)
    lengths = [len(result.token_ids) for result in results if isinstance(result, Completion)]
    assert min(lengths) >= 9
    assert any(length < 20 for length in lengths[:-1])
