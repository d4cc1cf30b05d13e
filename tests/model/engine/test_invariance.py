"""Bit for bit: a row's logits, tokens and scores are the same alone, beside any rows, in any order,
in any slot.

Reasons: steps have fixed shapes, how a prompt is cut depends on that prompt alone, and sampling
uses its own row alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.model.tiny import build_engine, random_prompts, run, tiny_model, use_threads
from tirazh.model.engine import batch_engine as engine_module
from tirazh.model.engine import runner as runner_module
from tirazh.model.engine.sampling import RowState, Sampled, sample
from tirazh.model.gpt import RuGPT3ForCausalLM
from tirazh.model.layers.packed_linear import pack_linears, rows_are_independent
from tirazh.model.requests import EngineJob, GenerateRequest, LabelScores, Request, Result, SamplingParams, ScoreRequest

LABELS = ((1, 2, 3), (1, 2, 4), (1, 5), (6,), (7, 8, 9, 10, 11))
LENGTHS = [1, 15, 16, 17, 33, 64, 100, 150, 190]
PREFIX = random_prompts([21], seed=9)[0]
SAMPLINGS = (
    SamplingParams(max_new_tokens=14, temperature=1.0),
    SamplingParams(max_new_tokens=14, temperature=0.8, top_k=20, top_p=0.9, repetition_penalty=1.2),
    SamplingParams(max_new_tokens=14, temperature=0),
)
# No multiple of a vector's length, so that the longest decode step reads a cache to its very end.
MAX_LENGTH = 198
SETTINGS = {"max_length": MAX_LENGTH, "prefill_rows": 64, "decode_rows": 8}


class RunWithLogits:
    """Results in the requests' order, and for every completion the logits that each token was
    sampled from."""

    def __init__(self, model: RuGPT3ForCausalLM, requests: Sequence[Request], prefix: tuple[int, ...], slots: int):
        self._logits: dict[int, list[Tensor]] = {}
        engine = build_engine(model, num_slots=slots, job=EngineJob(prefix_token_ids=prefix, labels=LABELS), **SETTINGS)
        with patch.object(engine_module, "sample", self._sample):
            self.results: list[Result] = run(engine, requests)
        self._requests = requests

    def _sample(self, logits_RV: Tensor, rows: Sequence[RowState], num_tokens: int) -> Sampled:
        for row, logits_V in zip(rows, logits_RV, strict=True):
            self._logits.setdefault(row.seed, []).append(logits_V.clone())
        return sample(logits_RV, rows, num_tokens)

    def of(self, request: Request) -> tuple[Result, list[Tensor]]:
        """Return the request's result and logits; the request is found by identity."""
        index = next(i for i, other in enumerate(self._requests) if other is request)
        return self.results[index], self._logits.get(getattr(request, "seed", -1), [])


def assert_same_bits(alone: tuple[Result, list[Tensor]], together: tuple[Result, list[Tensor]]) -> None:
    assert together[0] == alone[0]
    assert len(together[1]) == len(alone[1])
    for step, (first, second) in enumerate(zip(alone[1], together[1], strict=True)):
        assert torch.equal(first, second), f"token {step}: off by {float((first - second).abs().max())}"


class Case:
    """A model, a prefix, requests of both kinds, and what each of them gets alone in a single slot."""

    def __init__(self, dtype: torch.dtype, prefix: tuple[int, ...], *, hidden_size: int = 64) -> None:
        self.model = tiny_model(dtype=dtype, num_layers=2, hidden_size=hidden_size)
        pack_linears(self.model, rows=SETTINGS["decode_rows"])  # as a replica does
        self.prefix = prefix
        most = MAX_LENGTH - 14 - len(prefix)
        prompts = [prefix + prompt[:most] for prompt in random_prompts(LENGTHS)]
        prompts += random_prompts([3, 40], seed=1)  # these do not begin with the prefix
        self.requests: list[Request] = [ScoreRequest(prompt_token_ids=prompt) for prompt in prompts]
        for seed, prompt in enumerate(prompts):
            self.requests.append(GenerateRequest(prompt_token_ids=prompt, sampling=SAMPLINGS[seed % 3], seed=seed))
        self.alone = [self.together([request], 1).of(request) for request in self.requests]

    def together(self, requests: Sequence[Request], slots: int) -> RunWithLogits:
        return RunWithLogits(self.model, requests, self.prefix, slots)

    def check(self, order: Sequence[int], slots: int) -> None:
        batch = self.together([self.requests[i] for i in order], slots)
        for index in order:
            assert_same_bits(self.alone[index], batch.of(self.requests[index]))


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture(scope="module", params=[(), PREFIX], ids=["no prefix", "shared prefix"])
def case(request: pytest.FixtureRequest, dtype: torch.dtype) -> Case:
    return Case(dtype, request.param)


@pytest.mark.parametrize("slots", [1, 5, 32])
def test_requests_that_run_together_get_the_bits_of_each_alone(case: Case, slots: int) -> None:
    case.check(range(len(case.requests)), slots)


@settings(max_examples=8, deadline=None)
@given(order=st.permutations(range(22)), count=st.integers(1, 22), slots=st.sampled_from([1, 5, 9, 32]))
def test_any_requests_in_any_order_get_the_bits_of_each_alone(
    case: Case, order: list[int], count: int, slots: int
) -> None:
    case.check(order[:count], slots)


@pytest.mark.parametrize("is_independent", [False, True])
def test_padding_changes_no_bit_where_matmul_rows_are_independent(case: Case, *, is_independent: bool) -> None:
    """The test forces either value; without it the runner measures the one that holds on this machine."""
    if not rows_are_independent(case.model):
        pytest.skip("matmuls here round by their number of rows")
    with patch.object(runner_module, "rows_are_independent", lambda _: is_independent):
        case.check(range(len(case.requests)), 5)


def test_steps_need_no_padding_where_the_kernels_take_the_heads(dtype: torch.dtype) -> None:
    """16 elements a head; two and three threads, whose shares of the work end inside rows."""
    case = Case(dtype, PREFIX, hidden_size=128)
    if not rows_are_independent(case.model):
        pytest.skip("no kernel of ours multiplies this dtype here")
    for num_threads, is_independent in ((2, False), (3, True)):
        patched = patch.object(runner_module, "rows_are_independent", lambda _, value=is_independent: value)
        with use_threads(num_threads), patched:
            case.check(range(len(case.requests)), 5)


def test_a_short_row_keeps_its_bits_beside_one_that_fills_the_cache_to_its_end(case: Case) -> None:
    """A batched decode reads as many keys as the longest row has; the short row masks those behind
    its own."""
    longest, short = 19, 11  # completions of the longest prompt and of the shortest
    assert len(case.requests[longest].prompt_token_ids) == MAX_LENGTH - 14
    case.check([longest, short], 5)


def test_heads_of_64_elements_keep_their_bits(dtype: torch.dtype) -> None:
    case = Case(dtype, PREFIX, hidden_size=512)  # 64 elements a head
    case.check(range(len(case.requests) - 1, -1, -1), 5)


def test_three_threads_keep_the_bits_of_rows() -> None:
    """The shares of the work of three threads end inside rows."""
    with use_threads(3):
        case = Case(torch.float32, PREFIX, hidden_size=256)
        case.check(range(len(case.requests) - 1, -1, -2), 5)


def test_the_compared_results_are_scores_and_full_completions(case: Case) -> None:
    scores = [result for result, _ in case.alone[:11]]
    assert all(isinstance(result, LabelScores) and len(result.logprobs) == 5 for result in scores)
    assert all(len(logits) == 14 for _, logits in case.alone[11:])
