"""Time decode steps on a GPU with all slots at one context length, as a share of the memory bandwidth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from benchmarks.ceilings import Ceiling
from benchmarks.experiment import Experiment
from benchmarks.goals import Goal
from benchmarks.model_under_test import ModelUnderTest, Shape
from benchmarks.peers.ours import build_runner, engine_config
from benchmarks.peers.peer import free_memory, timed
from tirazh.model.engine.batch_engine import BatchEngine
from tirazh.model.engine.runner import ModelRunner, slots_that_fit
from tirazh.model.engine.scheduler import Scheduler
from tirazh.model.requests import EngineJob, GenerateRequest, SamplingParams
from tirazh.model.tensor_parallel import weight_bytes

CONTEXT = 1024
_TIMED, _BEFORE = 32, 8  # steps
# Bytes a second from the data sheet, which published comparisons use as the limit.
_DATA_SHEET = {"H100": 3.35e12, "H200": 4.8e12, "A100": 2.0e12}


class _PrefillFirst(Scheduler):
    """Prefills all prompts before any sequence decodes, so that the timed decode steps have all slots."""

    def _should_prefill(self) -> bool:
        return any(sequence is not None and sequence.num_to_prefill for sequence in self.slots)

    @property
    def is_decoding(self) -> bool:
        return not self._jobs.num_waiting and not self._should_prefill()


def measure_decode(
    under_test: ModelUnderTest, dtype: str, ceiling: Ceiling, *, slots: Sequence[int] = (16, 64, 128, 256)
) -> Experiment:
    """Time our alternating and dense models at each number of slots, or at as many as fit in memory."""
    shape, rows, goals = under_test.shape, [], []
    for mode in ("alternating", "dense"):
        network = under_test.ours(mode, dtype)
        most = slots_that_fit(network, CONTEXT + 64)
        for count in sorted({min(count, most) for count in slots}):
            runner = build_runner(network, num_slots=count, max_length=CONTEXT + 64)
            seconds = _seconds_a_step(runner, shape)
            num_bytes = weight_bytes(network) + count * runner.cache.bytes_kept(CONTEXT)
            share = num_bytes / seconds / ceiling.bytes_per_second
            listed = _DATA_SHEET.get(_gpu())
            of_listed = num_bytes / seconds / listed if listed else None
            figures = (count / seconds, 1e3 * seconds, num_bytes / 1e9, num_bytes / seconds / 1e12, share)
            rows.append((mode, count, *figures, of_listed if of_listed is not None else "–"))
            if mode == "alternating":
                goals += _goals(shape, count, share, of_listed)
            del runner
            free_memory()
        del network
        free_memory()
    how = (
        f"All slots hold {CONTEXT:,} tokens in the middle of {_TIMED} steps, greedy, engine and sampling included; "
        "bytes are the weights once and every slot's keys and values. Shares are of the bandwidth measured in this run "
        "and of the data sheet's."
    )
    columns = ("layers", "slots", "tokens/s", "ms a step", "GB a step", "TB/s", "of measured", "of data sheet")
    return Experiment(name="decode", how=how, columns=columns, rows=rows, goals=goals)


def _goals(shape: Shape, slots: int, share: float, of_listed: float | None) -> list[Goal]:
    name = f"{shape.name} decode at {CONTEXT:,} tokens, {slots} slots"
    if shape.name == "13b":
        return [Goal(text=f"{name}: of measured bandwidth", goal=0.8 if slots <= 16 else 0.75, measured=share)]
    if shape.name == "xl" and slots == 256:
        return [Goal(text=f"{name}: of the data sheet's limit", goal=0.75, measured=of_listed)]
    return []


def _seconds_a_step(runner: ModelRunner, shape: Shape) -> float:
    config = engine_config(runner, device="cuda")
    generator = np.random.default_rng(0)
    num_before = CONTEXT - _BEFORE - _TIMED // 2
    params = SamplingParams(max_new_tokens=_BEFORE + _TIMED + 16, temperature=0)
    prompts = [generator.integers(0, shape.vocab_size, num_before).tolist() for _ in range(runner.num_slots)]
    scheduler = _PrefillFirst(config, EngineJob(), window_size=runner.window_size)
    engine = BatchEngine(runner, scheduler)
    engine.add([GenerateRequest(prompt_token_ids=prompt, sampling=params, seed=0) for prompt in prompts])
    engine.step()
    while not scheduler.is_decoding:
        engine.step()
    for _ in range(_BEFORE):
        engine.step()
    with timed() as watch:
        for _ in range(_TIMED):
            engine.step()
    return watch.seconds / _TIMED


def _gpu() -> str:
    name = torch.cuda.get_device_name()
    return next((known for known in _DATA_SHEET if known in name), name)
