"""The GPU kernels give what dense attention gives. They run on a GPU, or on a CPU in Triton's interpreter:

    pip install triton
    TRITON_INTERPRET=1 python -m pytest tests/model/attention/test_gpu.py tests/model/attention/test_step_attention.py

With that variable the tests of the engine's attention use these kernels too, wherever heads are 16 wide.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.model.attention.test_prefill import PATTERN
from tests.model.tiny import (
    GREEDY,
    SMALL_PATTERN,
    build_engine,
    full_logits,
    greedy_requests,
    naive_greedy,
    random_prompts,
    run,
    tiny_model,
)
from tirazh.model.attention.backends import gpu
from tirazh.model.attention.backends.gpu_tables import idle_decode_table
from tirazh.model.attention.backends.plain import attend_one_by_one
from tirazh.model.attention.kv_cache import LayerCache, PrefixKV
from tirazh.model.attention.layer_shape import LayerShape
from tirazh.model.attention.step_layout import DecodeRows
from tirazh.model.engine import runner as runner_module
from tirazh.model.engine.runner import can_capture_graphs
from tirazh.model.kernels.tables import DecodeRow, column
from tirazh.model.layers.packed_linear import pack_linears
from tirazh.model.requests import (
    EngineJob,
    GenerateRequest,
    LabelScores,
    Request,
    Result,
    SamplingParams,
    ScoreRequest,
)

HAS_GPU = torch.cuda.is_available()
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or not (HAS_GPU or os.environ.get("TRITON_INTERPRET") == "1"),
    reason="needs Triton, and a GPU or TRITON_INTERPRET=1",
)
pytestmark = needs_triton
DEVICE = "cuda" if HAS_GPU else "cpu"
CAPACITY, SCALE = 160, 0.3
# The interpreter does not multiply bfloat16.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16 if HAS_GPU else torch.float16: 2e-2 if HAS_GPU else 3e-3}
quick = settings(max_examples=15, deadline=None)


def random_tensor(*shape: int, dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def layer_cache(heads: int, dim: int, dtype: torch.dtype, *, is_sparse: bool) -> LayerCache:
    starts = tuple(16 * (head % 2) for head in range(heads))
    shape = LayerShape(heads, dim, PATTERN, starts) if is_sparse else LayerShape(heads, dim)
    cache = LayerCache(shape, 4, CAPACITY * 3, dtype=dtype, device=torch.device(DEVICE))
    cache.k.copy_(random_tensor(*cache.k.shape, dtype=dtype, seed=1))
    cache.v.copy_(random_tensor(*cache.v.shape, dtype=dtype, seed=2))
    return cache


@quick
@given(
    st.permutations([0, 1, 2, 3, -1, -1]),
    st.lists(st.integers(0, CAPACITY - 1), min_size=6, max_size=6),
    st.sampled_from([(1, 1), (2, 4), (2, 2)]),
    st.sampled_from([16, 64]),
    st.sampled_from(list(TOLERANCE)),
)
def test_a_decoded_row_reads_its_slot_and_its_key_joins_it(
    slots: list[int], ends: list[int], heads: tuple[int, int], dim: int, dtype: torch.dtype
) -> None:
    kv_heads, num_heads = heads
    # As a model hands them over: all heads of a row side by side in one tensor, seen through a transpose.
    q, k, v = (
        random_tensor(n, 6, dim, dtype=dtype, seed=3 + i).transpose(0, 1)
        for i, n in enumerate((num_heads, kv_heads, kv_heads))
    )
    cache, other = (layer_cache(kv_heads, dim, dtype, is_sparse=False) for _ in range(2))
    table = idle_decode_table(6)
    table[:, column(DecodeRow, "slot")] = torch.tensor(slots)
    table[:, column(DecodeRow, "dense_end")] = torch.tensor(ends)
    out = gpu.attend_decode(q, k, v, cache, table.to(DEVICE), SCALE)
    rows = DecodeRows(torch.tensor(slots), torch.tensor(ends), max(ends) + 1)
    expected, _ = attend_one_by_one(q, k, v, other.k, other.v, rows, SCALE)
    assert torch.allclose(out.float(), expected.float(), atol=TOLERANCE[dtype])
    assert torch.equal(cache.k, other.k)
    assert torch.equal(cache.v, other.v)


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_a_window_is_closed_head_by_head_before_the_new_key_comes(dtype: torch.dtype) -> None:
    """Both heads' global tokens: one begins where they are moved to, the other where the new key will stand."""
    cache, other = (layer_cache(2, 16, dtype, is_sparse=True) for _ in range(2))
    q, k, v = (random_tensor(2, 2, 16, dtype=dtype, seed=seed) for seed in (3, 4, 5))
    end = 32 + PATTERN.global_size
    rows_of_table = [DecodeRow(slot=2, sparse_end=end, close_at=32), DecodeRow(slot=1, sparse_end=7)]
    table = torch.tensor(rows_of_table, dtype=torch.int32, device=DEVICE)
    out = gpu.attend_decode(q, k, v, cache, table, SCALE)
    other.close_window(2, 32)
    rows = DecodeRows(torch.tensor([2, 1]), torch.tensor([end, 7]), end + 1)
    expected, _ = attend_one_by_one(q, k, v, other.k, other.v, rows, SCALE)
    assert torch.allclose(out.float(), expected.float(), atol=TOLERANCE[dtype])
    assert torch.equal(cache.k, other.k)
    assert torch.equal(cache.v, other.v)


@quick
@given(st.integers(1, 150), st.integers(1, 200), st.sampled_from(list(TOLERANCE)))
def test_every_row_attends_to_the_whole_prefix_on_a_gpu(rows: int, num_prefix: int, dtype: torch.dtype) -> None:
    q, k, v = (random_tensor(4, n, 16, dtype=dtype, seed=n) for n in (rows, num_prefix, num_prefix + 1))
    out, lse = gpu.attend_prefix(q.transpose(0, 1), PrefixKV(k, v[:, 1:].contiguous()), SCALE)
    scores = q.double() @ k.double().transpose(1, 2) * SCALE
    expected = (scores.softmax(-1) @ v[:, 1:].double()).transpose(0, 1)
    assert torch.allclose(out.double(), expected, atol=TOLERANCE[dtype])
    assert torch.allclose(lse.double(), scores.logsumexp(-1), atol=5 * TOLERANCE[dtype])


LABELS = ((1, 2, 3), (1, 4), (5,))
MODEL: dict[str, Any] = {"num_layers": 2, "hidden_size": 64, "num_attention_heads": 4}


@pytest.mark.parametrize("shared", [0, 5, 33])
def test_the_engine_generates_what_the_whole_model_would(shared: int) -> None:
    """Prompts of less than a window and of several, some behind a prefix that ends inside one."""
    model = tiny_model(**MODEL)
    (prefix,) = random_prompts([shared], seed=7) or ((),)
    prompts = [prefix + own if i != 1 else own for i, own in enumerate(random_prompts([3, 40, 17, 60]))]
    expected = [naive_greedy(model, prompt, GREEDY.max_new_tokens) for prompt in prompts]
    engine = build_engine(model.to(DEVICE), job=EngineJob(prefix_token_ids=prefix))
    assert [result.token_ids for result in run(engine, greedy_requests(prompts))] == expected


@pytest.mark.parametrize("length", [5, 15, 16, 30])
def test_the_engine_scores_labels_as_the_whole_model_would(length: int) -> None:
    """Also where the labels reach into the next window."""
    model = tiny_model(**MODEL)
    prompts = random_prompts([length, 9])
    expected = [[_likelihood(model, prompt, label) for label in LABELS] for prompt in prompts]
    engine = build_engine(model.to(DEVICE), job=EngineJob(labels=LABELS))
    for result, scores in zip(run(engine, [ScoreRequest(prompt_token_ids=p) for p in prompts]), expected, strict=True):
        assert isinstance(result, LabelScores)
        assert result.logprobs == pytest.approx(scores, abs=1e-4)


@pytest.mark.parametrize("length", [5, 16, 30])
def test_several_questions_after_a_text_are_scored_as_the_whole_model_would(length: int) -> None:
    """The longer suffix ends two windows behind the prompt."""
    model = tiny_model(**MODEL)
    (prompt,), suffixes = random_prompts([length]), random_prompts([3, 30], seed=4)
    job = EngineJob(
        labels=tuple(suffix + label for suffix in suffixes for label in LABELS),
        label_starts=tuple(len(suffix) for suffix in suffixes for _ in LABELS),
    )
    expected = [_likelihood(model, prompt + suffix, label) for suffix in suffixes for label in LABELS]
    (result,) = run(build_engine(model.to(DEVICE), job=job), [ScoreRequest(prompt_token_ids=prompt)])
    assert isinstance(result, LabelScores)
    assert result.logprobs == pytest.approx(expected, abs=1e-4)


def _likelihood(model: torch.nn.Module, prompt: tuple[int, ...], label: tuple[int, ...]) -> float:
    logits = full_logits(model, prompt + label)[:, :310].log_softmax(-1)
    return sum(float(logits[len(prompt) - 1 + i, token]) for i, token in enumerate(label))


def test_a_model_on_a_cpu_cannot_capture_graphs() -> None:
    assert not can_capture_graphs(tiny_model(**MODEL, sparse_pattern=SMALL_PATTERN))


def _generating_and_scoring(prefix: tuple[int, ...]) -> list[Request]:
    """With the prefix and without, in steps of one kind and in mixed ones."""
    prompts = [prefix + own if i != 1 else own for i, own in enumerate(random_prompts([3, 40, 17, 60, 22, 31]))]
    drawing = SamplingParams(max_new_tokens=9, temperature=0.8, top_k=20)
    return [
        *greedy_requests(prompts),
        *(ScoreRequest(prompt_token_ids=prompt) for prompt in prompts),
        *(GenerateRequest(prompt_token_ids=prompt, sampling=drawing, seed=i) for i, prompt in enumerate(prompts)),
    ]


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="needs a GPU")
@pytest.mark.parametrize("shared", [0, 5, 33])
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_captured_steps_give_the_results_of_eager_steps(shared: int, dtype: torch.dtype) -> None:
    model = tiny_model(**MODEL, dtype=dtype).to(DEVICE)
    (prefix,) = random_prompts([shared], seed=7) or ((),)
    job = EngineJob(prefix_token_ids=prefix, labels=LABELS)
    requests = _generating_and_scoring(prefix)
    eager = run(build_engine(model, job=job), requests)
    assert run(build_engine(model, job=job, uses_cuda_graphs=True, overlaps_steps=True), requests) == eager


class EagerGraphs:
    """Stands in for CUDA graphs: runs the captured function again, on the same buffers for all steps of a shape."""

    def __init__(self, agree: Callable[[bool], bool]) -> None:
        self._captured: dict[Any, tuple[Callable[..., Tensor], list[Tensor]]] = {}

    def run(
        self, phase: str, forward: Callable[..., Tensor], values: Sequence[Tensor], idle: Sequence[Tensor]
    ) -> Tensor:
        key = (phase, *(value.shape for value in values))
        if key not in self._captured:
            self._captured[key] = forward, [value.to(DEVICE) for value in idle]
            forward(*self._captured[key][1])  # as before a capture: an idle step must do no harm
        captured, buffers = self._captured[key]
        for held, value in zip(buffers, values, strict=True):
            held.copy_(value)
        return captured(*buffers)


@pytest.mark.parametrize("shared", [0, 33])
def test_a_captured_step_depends_on_its_inputs_alone(monkeypatch: pytest.MonkeyPatch, shared: int) -> None:
    model = tiny_model(**MODEL).to(DEVICE)
    (prefix,) = random_prompts([shared], seed=7) or ((),)
    job = EngineJob(prefix_token_ids=prefix, labels=LABELS)
    requests = _generating_and_scoring(prefix)[::4]
    eager = run(build_engine(model, job=job), requests)
    monkeypatch.setattr(runner_module, "StepGraphs", EagerGraphs)
    assert run(build_engine(model, job=job, uses_cuda_graphs=True, overlaps_steps=True), requests) == eager


class FailingGraphs(EagerGraphs):
    """Captures two steps. Then a rank fails."""

    num_left = 2

    def run(self, *arguments: Any) -> Tensor | None:  # type: ignore[override]
        self.num_left -= 1
        return None if self.num_left < 0 else super().run(*arguments)


def test_without_a_graph_a_step_and_all_later_ones_run_eagerly(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_model(**MODEL).to(DEVICE)
    requests = greedy_requests(random_prompts([20, 3]), replace(GREEDY, max_new_tokens=5))
    eager = run(build_engine(model), requests)
    monkeypatch.setattr(runner_module, "StepGraphs", FailingGraphs)
    engine = build_engine(model, uses_cuda_graphs=True, overlaps_steps=True)
    assert run(engine, requests) == eager
    assert len(engine.runner.seen) > 4  # type: ignore[attr-defined]
    assert [record.message for record in caplog.records if "CUDA" in record.message] == [
        "steps run without CUDA graphs, which is slower: not every rank could capture them"
    ]


@pytest.mark.parametrize("lengths", [(33, 33), (33, 21), (0, 20), (20, 0)], ids=str)
def test_captured_steps_of_several_jobs_give_the_results_of_eager_steps(
    monkeypatch: pytest.MonkeyPatch, lengths: tuple[int, int]
) -> None:
    """Graphs read the prefix at one address: one of the same length takes its place there."""
    model = tiny_model(**MODEL).to(DEVICE)
    jobs = [
        EngineJob(prefix_token_ids=random_prompts([n], seed=n + i)[0], labels=LABELS) for i, n in enumerate(lengths)
    ]
    scores = [[ScoreRequest(prompt_token_ids=(*job.prefix_token_ids, 3, 4))] for job in jobs]  # few interpreted steps
    requests = [_generating_and_scoring(job.prefix_token_ids) for job in jobs] if HAS_GPU else scores
    expected = [run(build_engine(model, job=job), asked) for job, asked in zip(jobs, requests, strict=True)]
    if not HAS_GPU:
        monkeypatch.setattr(runner_module, "StepGraphs", EagerGraphs)
    engine = build_engine(model, job=jobs[0], uses_cuda_graphs=True, overlaps_steps=True)
    assert engine.add_job(jobs[1]) == 1
    for index in (0, 1, 0):
        graphs = engine.runner.runner._graphs
        assert run(engine, [replace(request, job=index) for request in requests[index]]) == expected[index]
        assert (engine.runner.runner._graphs is graphs) == (lengths[0] == lengths[1] and graphs is not None)


@pytest.mark.parametrize("dtype", list(TOLERANCE) if HAS_GPU else [torch.float32], ids=str)
def test_a_row_is_the_same_beside_any_others_in_any_order_and_slot_on_a_gpu(dtype: torch.dtype) -> None:
    """On a GPU with heads of real widths and everything that a job's replica uses. Beside others, a prompt is spread
    over other and more steps."""
    size = {"num_layers": 4, "hidden_size": 512, "num_attention_heads": 4} if HAS_GPU else MODEL
    model = tiny_model(**size, dtype=dtype).to(DEVICE)
    pack_linears(model, rows=64)
    prefix = random_prompts([21], seed=9)[0]
    requests = _generating_and_scoring(prefix)[:: 1 if HAS_GPU else 3]

    def results(order: list[int], num_slots: int) -> list[Result]:
        engine = build_engine(
            model,
            num_slots=num_slots,
            job=EngineJob(prefix_token_ids=prefix, labels=LABELS),
            uses_cuda_graphs=HAS_GPU,
            overlaps_steps=HAS_GPU,
            prefill_rows=128,
            decode_rows=32,
        )
        found = run(engine, [requests[index] for index in order])
        return [found[order.index(index)] for index in range(len(order))]

    forwards = list(range(len(requests)))
    alone = results(forwards, 1)
    assert results(forwards, 18) == alone
    assert results(forwards[::-1], 5) == alone
