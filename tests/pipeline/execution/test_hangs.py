"""Processes that are killed or stopped during a job are detected and restarted, and no row is lost."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.fakes import DEADLY_TO_THE_OWNER, SLOW, STOPPING, children_of, owner_pids
from tirazh.errors import JobError
from tirazh.pipeline.build import run_job
from tirazh.pipeline.output.verify import verify
from tirazh.pipeline.spec import GenerateSpec

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_local")]
TIMEOUT_S = 3.0
PARTS = 8


@pytest.fixture
def spec(write_input: Callable[..., Path], tmp_path: Path, model_dir: Path) -> Callable[[list[int]], GenerateSpec]:
    """Make a job of eight parts of five rows.

    The fake engine reads `new_tokens` as an instruction per row.
    """

    def make(new_tokens: list[int]) -> GenerateSpec:
        write_input("a.parquet", prompt=["новость"] * 5 * PARTS, max_new_tokens=new_tokens)
        return GenerateSpec(
            input=(str(tmp_path / "in"),),
            output=str(tmp_path / "out"),
            model=str(model_dir),
            max_new_tokens=8,
            dtype="float32",
            part_rows=5,
            rank_timeout_s=TIMEOUT_S,
        )

    return make


def run(spec: GenerateSpec) -> dict[str, Any]:
    return run_job(spec, engine="module:tests.pipeline.fakes")


def when_a_part_is_written(output: Path, act: Callable[[], None]) -> threading.Thread:
    def wait() -> None:
        while not list(output.glob("part-*.parquet")):
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def signal_owners(number: signal.Signals) -> None:
    (raylet,) = [pid for pid in children_of(os.getpid()) if b"/raylet" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    owners = owner_pids(raylet)
    assert owners
    for pid in owners:
        os.kill(pid, number)


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)])
def test_the_process_that_owns_a_replica_is_restarted(
    spec: Callable[[list[int]], GenerateSpec], number: signal.Signals, tmp_path: Path
) -> None:
    job = spec([SLOW] * 5 * PARTS)
    thread = when_a_part_is_written(tmp_path / "out", lambda: signal_owners(number))
    manifest = run(job)
    thread.join()
    assert manifest["replica_deaths"] == 1
    assert verify(job.output).problems == ()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("order", "reason"),
    [
        (
            STOPPING,
            rf"rank 0 .* has work but made no progress for {TIMEOUT_S:g} s \(--rank-timeout-s is 3\); no answer .*",
        ),
        (DEADLY_TO_THE_OWNER, "the process that held the replica died"),
    ],
    ids=["a rank that stops each time", "a process that dies each time"],
)
def test_a_part_that_kills_every_replica_is_skipped_with_its_reason(
    spec: Callable[[list[int]], GenerateSpec], order: int, reason: str, tmp_path: Path
) -> None:
    job = spec([3] * 20 + [order] + [3] * 19)
    sentence = (
        r"part-00004-of-00008-[0-9a-f]{8}\.parquet \(rows 20–24 of .*; "
        rf"the last time: {reason}\) killed 3 replicas and was skipped"
    )
    with pytest.raises(JobError, match=sentence):
        run(job)
    written = {path.name[: len("part-00000-of-00008")] for path in (tmp_path / "out").glob("part-*.parquet")}
    assert written == {f"part-{n:05d}-of-00008" for n in range(PARTS) if n != 4}
    (problem,) = verify(job.output).problems
    assert problem.startswith("1 of 8 parts are missing: part-00004-of-00008-")
