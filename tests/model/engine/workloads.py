"""Mixed workloads over a runner without a model, and the sequence of steps that an engine makes of
them.

`python -m tests.model.engine.workloads` writes the steps of every workload to
`scheduling_trace.txt`. Do that only when a change of scheduling is intended:
`test_scheduling_trace.py` compares with the file.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tirazh.model.engine.admission import Admission
from tirazh.model.engine.batch_engine import BatchEngine
from tirazh.model.engine.config import EngineConfig
from tirazh.model.engine.scheduler import Scheduler
from tirazh.model.requests import EngineJob, GenerateRequest, LabelScores, Request, Result, SamplingParams, ScoreRequest
from tirazh.model.step import PLACEHOLDER, Step

TRACE = Path(__file__).with_name("scheduling_trace.txt")
VOCABULARY = 97
NO_JOB = EngineJob()
NAN_TOKEN = 96  # logits after this token are NaN
PREFIX = tuple(range(50, 71))
LABELS = ((1, 2, 3), (1, 4), (5,))
MANY_LABELS = tuple((first, second, 7) for first in range(8) for second in range(8, 14))


class FakeRunner:
    """A runner whose logits depend on a row's token and position alone. It notes every step as a
    line of text."""

    def __init__(self, num_slots: int, *, window_size: int, overlaps_steps: bool) -> None:
        self.window_size, self.overlaps_steps = window_size, overlaps_steps
        self.lines: list[str] = []
        self.bytes_held = [0] * num_slots
        self._last_tokens = [0] * num_slots

    def execute(self, step: Step) -> Tensor:
        self.lines.append(describe_step(step))
        tokens = step.token_ids.copy()
        for segment in step.segments:
            self.bytes_held[segment.slot] += segment.length if segment.tree_parents is None else 0
            if tokens[segment.row] == PLACEHOLDER:
                tokens[segment.row] = self._last_tokens[segment.slot]
        logits_RV = np.zeros((len(step.logit_rows), VOCABULARY), np.float32)
        for logits_V, row in zip(logits_RV, step.logit_rows, strict=True):
            best = zlib.crc32(f"{tokens[row]} {step.positions[row]}".encode()) % (VOCABULARY - 1)
            logits_V[best] = np.nan if tokens[row] == NAN_TOKEN else 1
        self._hidden_RC = np.array([[tokens[row], step.positions[row]] for row in step.hidden_rows], np.float32)
        self._hidden_RC[tokens[list(step.hidden_rows)] == NAN_TOKEN] = np.nan
        return torch.from_numpy(logits_RV)

    @property
    def hidden_states(self) -> Tensor:
        return torch.from_numpy(self._hidden_RC)

    def store_tokens(self, slots: Sequence[int], tokens: Tensor) -> None:
        for slot, token in zip(slots, tokens.tolist(), strict=True):
            self._last_tokens[slot] = max(token, 0)


def describe_step(step: Step) -> str:
    """One line: the phase, each segment as slot:start+length@row (* a label trie), rows read, fresh
    slots (p with the shared prefix, z zeroed) and a checksum of tokens and positions."""
    segments = [f"{s.slot}:{s.start}+{s.length}@{s.row}{'*' if s.tree_parents else ''}" for s in step.segments]
    fresh = [f"{f.slot}{'p' * f.uses_prefix}{'z' * f.must_zero}" for f in step.fresh_slots]
    values = np.concatenate([step.token_ids, step.positions, step.logit_rows])
    read = ",".join(map(str, step.logit_rows.tolist()))
    checksum = zlib.crc32(values.tobytes())
    return f"{step.phase} {len(step.token_ids)} {' '.join(segments)} | {read} | {','.join(fresh)} | {checksum:08x}"


def describe_result(result: Result) -> str:
    """How a request ended: its new tokens and where its text is cut, or how many labels were
    scored."""
    if isinstance(result, LabelScores):
        return "no scores" if result.error else f"{len(result.logprobs)} scores"
    cut = "" if result.text_end is None else f" cut at {result.text_end}"
    return f"{result.finish_reason} {','.join(map(str, result.token_ids))}{cut}"


@dataclass(frozen=True, kw_only=True)
class Workload:
    """`waves[i]` are the requests that arrive before step `i * wave_every`."""

    waves: tuple[tuple[Request, ...], ...]
    wave_every: int = 3
    num_slots: int = 6
    decode_rows: int = 8
    prefill_rows: int = 64
    window_size: int = 16
    max_length: int = 120
    job: EngineJob = NO_JOB
    end_token_ids: tuple[int, ...] = ()
    memory: int | None = None
    overlaps_steps: bool = False


def mixed_requests(seed: int, count: int, *, prefix: tuple[int, ...] = (), scores: float = 0.3) -> tuple[Request, ...]:
    """Ragged prompts, some behind the prefix, some that end in `NAN_TOKEN`, too long or empty ones;
    completions of any length, with stop strings or a repetition penalty at times."""
    random = np.random.default_rng(seed)
    requests: list[Request] = []
    for index in range(count):
        prompt = tuple(random.integers(0, VOCABULARY - 1, random.integers(0, 60)).tolist())
        prompt = (prefix if random.random() < 0.7 else ()) + prompt
        prompt += (NAN_TOKEN,) if random.random() < 0.1 else ()
        prompt *= 9 if random.random() < 0.05 else 1
        if random.random() < scores:
            requests.append(ScoreRequest(prompt_token_ids=prompt))
            continue
        sampling = SamplingParams(
            max_new_tokens=int(random.integers(1, 24)),
            temperature=0,
            repetition_penalty=1.2 if random.random() < 0.15 else 1.0,
            stop=(" 7",) if random.random() < 0.3 else (),
        )
        requests.append(GenerateRequest(prompt_token_ids=prompt, sampling=sampling, seed=index))
    return tuple(requests)


LABELLED = EngineJob(prefix_token_ids=PREFIX, labels=LABELS)
WORKLOADS = {
    "one slot for each sequence of a decode step": Workload(
        waves=(mixed_requests(1, 12, prefix=PREFIX), mixed_requests(2, 6, prefix=PREFIX)), job=LABELLED
    ),
    "more slots than rows of a decode step": Workload(
        waves=(mixed_requests(3, 20, scores=0), mixed_requests(4, 5, scores=0)),
        num_slots=12,
        decode_rows=5,
        end_token_ids=(11, 12, 13),
    ),
    "overlap scheduling": Workload(
        waves=(mixed_requests(5, 14, prefix=PREFIX), mixed_requests(6, 4), mixed_requests(7, 4)),
        job=LABELLED,
        end_token_ids=(11, 12, 13),
        overlaps_steps=True,
    ),
    "little memory": Workload(
        waves=(mixed_requests(8, 12, prefix=PREFIX), mixed_requests(9, 6)), job=LABELLED, memory=300
    ),
    "more labels than a step has rows, windows longer than a step": Workload(
        waves=(mixed_requests(10, 10, prefix=PREFIX, scores=0.8),),
        job=EngineJob(prefix_token_ids=PREFIX, labels=MANY_LABELS),
        prefill_rows=24,
        window_size=40,
        max_length=100,
    ),
}


def trace(workload: Workload) -> list[str]:
    """Every step of the workload, then every result, a line each."""
    runner = FakeRunner(workload.num_slots, window_size=workload.window_size, overlaps_steps=workload.overlaps_steps)
    engine = build(workload, runner)
    results = dict(_run(engine, workload))
    return runner.lines + [f"{id}: {describe_result(results[id])}" for id in sorted(results)]


def build(workload: Workload, runner: FakeRunner) -> BatchEngine:
    config = EngineConfig(
        num_slots=workload.num_slots,
        max_length=workload.max_length,
        num_tokens=VOCABULARY,
        end_token_ids=workload.end_token_ids,
        prefill_rows=workload.prefill_rows,
        decode_rows=workload.decode_rows,
    )
    memory, admission = workload.memory, None
    if memory is not None:
        free: Callable[[], int] = lambda: memory - sum(runner.bytes_held)  # noqa: E731
        admission = Admission(workload.num_slots, bytes_of=lambda num_tokens: num_tokens, free_bytes=free)
    scheduler = Scheduler(config, workload.job, window_size=runner.window_size, admission=admission)
    return BatchEngine(runner, scheduler, decode=spell)


def spell(token_ids: Sequence[int]) -> str:
    return "".join(f" {token}" for token in token_ids)


def _run(engine: BatchEngine, workload: Workload) -> Iterator[tuple[int, Result]]:
    waves = list(workload.waves)
    for number in range(10_000):
        if waves and number % workload.wave_every == 0:
            engine.add(waves.pop(0))
        if not waves and not engine.has_work:
            return
        yield from engine.step()
    raise AssertionError("the engine still has work after 10,000 steps")


def trace_all() -> str:
    """The traces of all workloads, as the file holds them."""
    return "".join(
        f"# {name}\n" + "".join(f"{line}\n" for line in trace(workload)) for name, workload in WORKLOADS.items()
    )


if __name__ == "__main__":
    TRACE.write_text(trace_all(), encoding="utf-8")
