"""Jobs of several steps in this process, without Ray: the fake engine answers, everything else is the real code."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import pyarrow as pa
import pytest

from tests.pipeline.fakes import FakeEngine
from tirazh.model.requests import Completion, GenerateRequest, Request, Result
from tirazh.model.tokenizer import load_tokenizer
from tirazh.pipeline.execution.infer import InferConfig, append_results, make_requests
from tirazh.pipeline.execution.progress import JobProgress
from tirazh.pipeline.input.read import read_part
from tirazh.pipeline.job_run import JobRun
from tirazh.pipeline.output.write import WriteStep
from tirazh.pipeline.quality.dedup import find
from tirazh.pipeline.repeated_rows import repetitions_of
from tirazh.pipeline.steps.filtering import run as filtering

Answer = Callable[[Sequence[Request], InferConfig], Sequence[Result]]


def kill_points(points: Iterable[int], *, fast: Collection[int]) -> list[Any]:
    """Parameters of a test that kills a run after so many parts: those outside of `fast` are slow."""
    return [point if point in fast else pytest.param(point, marks=pytest.mark.slow) for point in points]


def _echo(requests: Sequence[Request], config: InferConfig) -> list[Result]:
    engine = FakeEngine(config.replica, lambda step: None)
    ids, answers = engine.add(requests), dict[int, Result]()
    while engine.has_work:
        answers |= dict(engine.step())
    return [answers[each] for each in ids]


def answer_with_seeds(model: str) -> Answer:
    """Completions that are the digits of the row's seed."""
    tokenizer = load_tokenizer(model)

    def answer(requests: Sequence[Request], config: InferConfig) -> list[Result]:
        texts = [str(request.seed) for request in requests if isinstance(request, GenerateRequest)]
        return [
            Completion(token_ids=tuple(tokenizer.encode(text)), finish_reason="stop", text_end=len(text))
            for text in texts
        ]

    return answer


class KilledError(BaseException):
    """Ends a run as a kill does: nothing catches it."""


class InProcess:
    """Makes parts in this process. `made` counts the rows that the engine answered, by the last name of the output.

    `kill_after` ends the run with `KilledError` after so many parts of all steps together.
    """

    def __init__(self) -> None:
        self.made: dict[str, int] = {}
        self.kill_after: int | None = None
        self.answer: Answer = _echo

    def part_made(self) -> None:
        if self.kill_after is None:
            return
        self.kill_after -= 1
        if self.kill_after < 0:
            raise KilledError

    def counting(self, task: Callable[..., Any]) -> Callable[..., Any]:
        """The task of a filter step, which counts as a part."""

        def run(*arguments: Any) -> Any:
            self.part_made()
            return task(*arguments)

        return run

    def make(self, run: JobRun, parts: list[Any]) -> dict[str, Any]:
        progress = JobProgress(
            run.plan,
            parts,
            samples=1,
            max_error_rate=run.spec.max_error_rate,
            earlier_errors=run.earlier_errors,
            on_progress=run.on_progress,
        )
        repetitions = repetitions_of(run.plan, parts, run.prompts.config, run.output, run.tell)
        prompts, write = run.prompt_step(), WriteStep(run.write_config())
        for part in parts:
            self.part_made()
            rows = read_part(part, run.output.storage, run.plan.schema, repetitions.get(part.index))
            (written,) = write(self._infer(run, prompts(rows))).to_pylist()
            progress.add(written)
        return progress.facts() | {"versions": {}}

    def _infer(self, run: JobRun, table: pa.Table) -> pa.Table:
        from tirazh.pipeline import schema

        config = run.infer_config(None, run.replica_config(threads=1))  # type: ignore[arg-type]
        good = [row for row, error in enumerate(table.column(schema.ROW_ERROR).to_pylist()) if error is None]
        requests = make_requests(table.take(good), config) if good else []
        name = run.output.directory.rpartition("/")[2]
        self.made[name] = self.made.get(name, 0) + len(requests)
        return append_results(table, good, self.answer(requests, config), config)


def run_in_process(monkeypatch: pytest.MonkeyPatch) -> InProcess:
    """Patch `run_steps` to run without Ray."""
    process = InProcess()
    monkeypatch.setattr("tirazh.pipeline.build.ray_session", lambda spec, tell: nullcontext())
    monkeypatch.setattr("tirazh.pipeline.steps.run.ray_cluster", lambda address, **settings: nullcontext())
    monkeypatch.setattr("tirazh.pipeline.build.resolve_device", lambda spec: "cpu")
    monkeypatch.setattr("tirazh.pipeline.build.resolve_dtype", lambda device: "float32")
    monkeypatch.setattr("tirazh.pipeline.build.refuse_impossible", lambda config: None)
    # A test that ran before may have left the session's Ray connected: its tasks would run where nothing counts them.
    for module in (filtering, find):
        monkeypatch.setattr(module, "is_ray_connected", lambda: False)
    for name in ("judge_part", "write_part"):
        task = getattr(filtering, name)
        monkeypatch.setattr(filtering, name, process.counting(task))
    monkeypatch.setattr(JobRun, "make", lambda run, parts: process.make(run, parts))
    return process
