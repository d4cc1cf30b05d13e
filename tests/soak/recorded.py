"""The command `tirazh` with an engine that also records the rows that it receives and answers.

`python -m tests.soak.recorded generate …` runs a job. The records show how much work a killed run
had started, of which nothing else is left. As an engine module (`ReplicaConfig.engine`) it is the
real engine with other `add` and `step` methods.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tirazh.actors.messages import ReplicaConfig
from tirazh.actors.progress import ProgressCounter
from tirazh.actors.rendezvous import RankPlace

STARTED, ANSWERED, BUILT = "started", "answered", "built"
# In the environment of a command: the seconds that its clock is wrong, and whether it acts as if on another machine.
CLOCK_ERROR_S, ELSEWHERE = "SOAK_CLOCK_ERROR_S", "SOAK_ELSEWHERE"


def build_runner(config: ReplicaConfig, rank_place: RankPlace, progress: ProgressCounter) -> Any:
    from tirazh.actors import model_engine

    return model_engine.build_runner(config, rank_place, progress)


def count_weight_bytes(runner: Any) -> int:
    from tirazh.actors import model_engine

    return model_engine.count_weight_bytes(runner)


def build_engine(config: ReplicaConfig, runner: Any, execute: Callable[[Any], Any]) -> Any:
    from tirazh.actors import model_engine
    from tirazh.model.checkpoints.directory import open_checkpoint
    from tirazh.model.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(open_checkpoint(config.model, config.model_settings).tokenizer_dir)
    engine = model_engine.build_engine(config, runner, execute)
    notes = (Path(config.model).parent / "engine-notes" / f"{os.getpid()}.log").open("a", buffering=1)

    rows: dict[int, str] = {}
    notes.write(f"{time.time():.3f} {BUILT} {_command_id()}\n")

    def note(what: str, row: str) -> None:
        notes.write(f"{time.time():.3f} {what} {row}\n")

    def add(requests: Sequence[Any]) -> list[int]:
        ids: list[int] = engine_add(requests)
        for request_id, request in zip(ids, requests, strict=True):
            text = tokenizer.decode(list(request.prompt_token_ids))
            rows[request_id] = text.partition(":")[0].removeprefix("row ")
            note(STARTED, rows[request_id])
        return ids

    def step() -> list[tuple[int, Any]]:
        answers: list[tuple[int, Any]] = engine_step()
        for request_id, _ in answers:
            note(ANSWERED, rows.pop(request_id))
        return answers

    engine_add, engine_step = engine.add, engine.step
    engine.add, engine.step = add, step  # type: ignore[method-assign, assignment]
    return engine


def rows_noted(notes: Path, *, since: float, until: float) -> list[dict[str, set[int]]]:
    """Return the numbers of the rows STARTED and ANSWERED between two times (seconds since 1970), for every process.

    The process with the latest note comes last.
    """
    found: list[tuple[float, dict[str, set[int]]]] = []
    for path in notes.glob("*.log"):
        last, rows = 0.0, {STARTED: set[int](), ANSWERED: set[int]()}
        for line in path.read_text().splitlines():
            words = line.split(" ")
            if len(words) == 3 and words[2].isdigit() and since <= float(words[0]) <= until:
                last = float(words[0])
                rows[words[1]].add(int(words[2]))
        found += [(last, rows)] if last else []
    return [rows for _, rows in sorted(found, key=lambda each: each[0])]


def engines_built(notes: Path, *, since: float) -> Counter[str]:
    """Return how many engines every command has built since a time (seconds since 1970)."""
    built: Counter[str] = Counter()
    for path in notes.glob("*.log"):
        for line in path.read_text().splitlines():
            words = line.split(" ")
            if words[1:2] == [BUILT] and float(words[0]) >= since:
                built[words[2]] += 1
    return built


def _command_id() -> str:
    """Return the Ray cluster and the id of the driver that this process works for."""
    import ray

    context = ray.get_runtime_context()
    return f"{context.gcs_address}/{context.get_job_id()}"


def _move_machine() -> None:
    """Give this process the wrong clock, and the mark of another machine, that its environment asks for."""
    error_s, real_time, real_time_ns = float(os.environ.get(CLOCK_ERROR_S, 0)), time.time, time.time_ns
    if error_s:
        time.time = lambda: real_time() + error_s
        time.time_ns = lambda: real_time_ns() + int(error_s * 1e9)
    if os.environ.get(ELSEWHERE):
        from tirazh.pipeline.output.leases import process_mark

        assert callable(process_mark._machine)
        process_mark._machine = lambda: "another machine"


def main() -> int:
    _move_machine()
    from tirazh.jobs import cli
    from tirazh.jobs.interrupts import Interrupted, interruptible

    try:
        with interruptible(lambda: "interrupted"):  # as the command does, whose main is called a moment later here
            from tirazh.pipeline import build

            build.run_job = functools.partial(build.run_job, engine="module:tests.soak.recorded")
    except Interrupted as end:
        print(f"tirazh: {end}", file=sys.stderr)
        return end.exit_code
    cli.run()


if __name__ == "__main__":
    sys.exit(main())
