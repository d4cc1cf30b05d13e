"""All Triton kernels that a job launches are compiled before the first request. A CPU only records the launches:

pip install triton
TRITON_INTERPRET=1 python -m pytest tests/model/engine/test_compiled_kernels.py
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.model.attention.test_gpu import DEVICE, HAS_GPU, EagerGraphs, needs_triton
from tests.model.tiny import DECODE_ROWS, PREFILL_ROWS, build_engine, random_prompts, run, tiny_model
from tirazh.model.engine import runner as runner_module
from tirazh.model.engine.labels import trie
from tirazh.model.engine.warm_up import compile_kernels
from tirazh.model.requests import (
    EmbedRequest,
    EngineJob,
    GenerateRequest,
    Request,
    SamplingParams,
    ScoreRequest,
    TextScoreRequest,
)
from tirazh.model.step import StepRows

pytestmark = needs_triton
ROWS = StepRows(prefill=PREFILL_ROWS, decode=DECODE_ROWS, prefill_logits=DECODE_ROWS // 2)
KERNELS = {"attention_triton": ("decode", "prefill", "keep"), "add_norm_triton": ("add_norm",)}
RESULTS = ("out", "total", "normed")  # arguments that a kernel overwrites as a whole
LABELS = ((1, 2, 3), (1, 4), (5,), (6, 7, 8, 9), (6, 2, 2))

Specialization = tuple[Any, ...]


def specialization(name: str, value: Any) -> Any:
    """What Triton compiles a kernel for, of an argument that is no constant."""
    if isinstance(value, Tensor):
        return name, value.dtype, value.data_ptr() % 16 == 0
    if isinstance(value, int):
        return name, value == 1, value % 16 == 0, abs(value) < 2**31
    return name, type(value)


class RecordedKernel:
    """Stands in for a kernel: notes for what it would be compiled. On a CPU it does not run, and its results are 0."""

    def __init__(self, name: str, kernel: Any, seen: set[Specialization]) -> None:
        self._name, self._kernel, self._seen = name, kernel, seen
        self._signature = inspect.signature(kernel.fn)

    def __getitem__(self, grid: Sequence[int]) -> Callable[..., None]:
        def launch(*arguments: Any, **named: Any) -> None:
            constants = {key: value for key, value in named.items() if key not in self._signature.parameters}
            own = {key: value for key, value in named.items() if key in self._signature.parameters}
            values = self._signature.bind(*arguments, **own).arguments
            parts = [
                (key, value)
                if "constexpr" in str(self._signature.parameters[key].annotation)
                else specialization(key, value)
                for key, value in values.items()
            ]
            self._seen.add((self._name, *parts, *sorted(constants.items())))
            if HAS_GPU:
                self._kernel[grid](*arguments, **named)
            else:
                for key in RESULTS:
                    if key in values:
                        values[key].zero_()

        return launch


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> set[Specialization]:
    found: set[Specialization] = set()
    for module_name, names in KERNELS.items():
        module = importlib.import_module(f"tirazh.model.kernels.{module_name}")
        for name in names:
            monkeypatch.setattr(module, name, RecordedKernel(name, getattr(module, name), found))
    return found


@st.composite
def any_job(draw: st.DrawFn) -> tuple[EngineJob, list[Request]]:
    """A job, and requests of every kind with its prefix and without; prefixes of less than a window and of more."""
    length = draw(st.sampled_from([0, 5, 15, 16, 17, 33]))
    prefix = random_prompts([length], seed=length)[0] if length else ()
    labels = draw(st.sampled_from([(), LABELS[:1], LABELS]))
    requests: list[Request] = []
    for seed, own in enumerate(draw(st.lists(st.sampled_from([1, 3, 16, 31, 70]), min_size=1, max_size=4))):
        prompt = (prefix if draw(st.booleans()) else ()) + random_prompts([own], seed=seed)[0]
        kind = draw(st.integers(0, 3))
        if kind == 0 and labels:
            requests.append(ScoreRequest(prompt_token_ids=prompt))
        elif kind == 1:
            requests.append(EmbedRequest(prompt_token_ids=prompt, pooling="mean"))
        elif kind == 2:
            requests.append(TextScoreRequest(token_ids=(*prompt, 5), num_context=1))
        else:
            penalty = draw(st.sampled_from([1.0, 1.2]))
            params = SamplingParams(max_new_tokens=draw(st.integers(1, 20)), top_k=5, repetition_penalty=penalty)
            requests.append(GenerateRequest(prompt_token_ids=prompt, sampling=params, seed=seed))
    return EngineJob(prefix_token_ids=prefix, labels=labels), requests


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    jobs=st.lists(any_job(), min_size=1, max_size=3),
    mode=st.sampled_from(["alternating", "all", "none"]),
    slots=st.integers(1, 9),
    uses_cuda_graphs=st.booleans(),
    max_nodes=st.sampled_from([2, 512]),
)
def test_jobs_launch_nothing_that_is_not_compiled_yet(
    seen: set[Specialization],
    jobs: list[tuple[EngineJob, list[Request]]],
    mode: str,
    slots: int,
    uses_cuda_graphs: bool,
    max_nodes: int,
) -> None:
    """Also with other jobs than the first, with prefixes of another length, and labels in several pieces."""
    model = tiny_model(num_layers=2, hidden_size=64, num_attention_heads=4, sparse_mode=mode).to(DEVICE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trie, "MAX_NODES", max_nodes)
        if not HAS_GPU:
            patch.setattr(runner_module, "StepGraphs", EagerGraphs)
        engine = build_engine(
            model,
            num_slots=slots,
            job=jobs[0][0],
            num_prefix_slots=2,
            uses_cuda_graphs=uses_cuda_graphs,
            overlaps_steps=uses_cuda_graphs,
        )
        seen.clear()
        compile_kernels(engine.runner.runner, ROWS)  # type: ignore[attr-defined]
        compiled = set(seen)
        requests = [replace(each, job=engine.add_job(job)) for job, some in jobs for each in some]
        run(engine, requests)
    assert seen == compiled
    assert {name for name, *_ in compiled} == {name for names in KERNELS.values() for name in names}
