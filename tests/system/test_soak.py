"""The soak test (`make soak`) in small: its plans, its proxy in front of a real S3 server, and a few real faults."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.seaweedfs import SeaweedServer
from tests.soak.comparison import accept_errors, compare, plan_of
from tests.soak.faults import KINDS
from tests.soak.job import write_slow_compiler
from tests.soak.proxy import Proxy
from tests.soak.recorded import CLOCK_ERROR_S, ELSEWHERE, engines_built
from tests.soak.schedule import make_plans, share_out
from tirazh.errors import StorageError
from tirazh.pipeline.storage.filesystem import Storage

ROWS = {f"row-{row}": {"id": f"row-{row}", "completion": str(row)} for row in range(3)}


def test_the_seed_determines_kinds_times_and_targets_of_the_faults() -> None:
    plans = [make_plans(200, list(KINDS), random.Random(seed), can_fill=True) for seed in (7, 7, 8)]
    assert plans[0] == plans[1] != plans[2]


def test_no_fault_follows_one_after_which_another_command_runs() -> None:
    plans = [
        faults for seed in range(20) for _, faults in make_plans(200, list(KINDS), random.Random(seed), can_fill=True)
    ]
    assert all(not KINDS[fault.kind].is_last for faults in plans for fault in faults[:-1])
    assert any(KINDS[faults[-1].kind].is_last for faults in plans)


def test_two_hundred_faults_include_every_kind() -> None:
    counts = Counter(share_out(200, {name: kind.weight for name, kind in KINDS.items()}))
    assert counts.total() == 200
    assert set(counts) == set(KINDS)
    assert min(counts.values()) >= 1
    assert min(counts[name] for name, kind in KINDS.items() if kind.weight >= 6) >= 5


@pytest.mark.parametrize(
    ("found", "duplicates", "lost", "different"),
    [
        pytest.param(list(ROWS.values()), 0, 0, 0, id="all rows"),
        pytest.param([*ROWS.values(), ROWS["row-1"]], 1, 0, 0, id="doubled"),
        pytest.param([ROWS["row-0"], ROWS["row-2"]], 0, 1, 0, id="lost"),
        pytest.param([ROWS["row-0"], ROWS["row-1"], {**ROWS["row-2"], "completion": "x"}], 0, 0, 1, id="different"),
        pytest.param([ROWS["row-1"], ROWS["row-0"], ROWS["row-2"]], 0, 0, 1, id="another order"),
    ],
)
def test_duplicate_lost_and_different_rows_are_counted(
    found: list[dict[str, str]], duplicates: int, lost: int, different: int
) -> None:
    result = compare(list(found), dict(ROWS), len(ROWS))
    assert (result.duplicates, result.lost, result.different) == (duplicates, lost, different)


def test_a_broken_row_counts_as_right_only_with_an_error_and_without_a_completion() -> None:
    """Every ninth prompt is null."""
    expected = {f"row-{row}": {"id": f"row-{row}", "completion": str(row), "error": None} for row in range(10)}
    broken = {"id": "row-9", "completion": None, "error": "column 'prompt' is null"}
    assert accept_errors([broken], expected) == [expected["row-9"]]
    for wrong in ({**broken, "error": None}, {**broken, "completion": "x"}, {**broken, "id": "row-4"}):
        assert accept_errors([wrong], expected) == [wrong]


@pytest.mark.parametrize(
    ("metadata", "plan"),
    [
        ({b"tirazh": b'{"part": 1, "plan_id": "aa", "fingerprint": "bb"}'}, "aa"),
        ({b"other": b"text", b"tirazh": b'{"part": 1, "fingerprint": "bb"}'}, "bb"),
        ({b"pandas": b'{"columns": []}'}, ""),
    ],
)
def test_a_footer_names_the_plan(metadata: dict[bytes, bytes], plan: str) -> None:
    assert plan_of(metadata) == plan


def test_the_slow_compiler_compiles_and_answers_at_once_for_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.soak.job.COMPILER_S", 0.5)
    compiler = str(write_slow_compiler(tmp_path / "cc"))
    (tmp_path / "a.c").write_text("int main(void) { return 0; }")
    started = time.monotonic()
    subprocess.run([compiler, "--version"], check=True, capture_output=True)
    assert time.monotonic() - started < 0.5 or is_busy()
    started = time.monotonic()
    subprocess.run([compiler, str(tmp_path / "a.c"), "-o", str(tmp_path / "a")], check=True)
    assert time.monotonic() - started >= 0.5
    subprocess.run([str(tmp_path / "a")], check=True)


def is_busy() -> bool:
    return os.getloadavg()[0] > (os.cpu_count() or 1)


def test_a_command_with_a_wrong_clock_acts_as_if_on_another_machine() -> None:
    script = (
        "import time; real = time.time(); from tests.soak.recorded import _move_machine; _move_machine(); "
        "from tirazh.pipeline.output.leases.process_mark import mark_process; "
        "print(round(time.time() - real), mark_process(1).machine)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=REPOSITORY,
        env=os.environ | {CLOCK_ERROR_S: "-300", ELSEWHERE: "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    shift, _, machine = done.stdout.strip().partition(" ")
    assert -300 <= int(shift) < -250
    assert machine == "another machine"


def test_engines_are_counted_for_each_command(tmp_path: Path) -> None:
    for name, lines in (("1", "5.0 built a\n6.0 started 3"), ("2", "7.0 built a"), ("3", "8.0 built b\n1.0 built c")):
        (tmp_path / f"{name}.log").write_text(lines)
    assert engines_built(tmp_path, since=4.0) == {"a": 2, "b": 1}


@pytest.fixture
def proxy(s3_server: SeaweedServer) -> Iterator[Proxy]:
    proxy = Proxy(s3_server.s3, seed=1)
    yield proxy
    proxy.close()


@pytest.fixture(scope="module")
def bucket(s3_server: SeaweedServer) -> str:
    return s3_server.make_bucket("proxy")


@pytest.mark.s3
@pytest.mark.parametrize("mood", ["well", "slow", "cut"])
def test_storage_works_over_a_slow_and_an_unreliable_network(proxy: Proxy, bucket: str, mood: str) -> None:
    storage = Storage(proxy.endpoint_url)
    proxy.mood = mood  # type: ignore[assignment]
    storage.write(f"{bucket}/file", b"x" * 5000)
    assert storage.read(f"{bucket}/file") == b"x" * 5000
    assert (proxy.hits > 0) == (mood != "well")


@pytest.mark.s3
@pytest.mark.parametrize("mood", [pytest.param("503", marks=pytest.mark.slow), "SlowDown"])
def test_a_busy_storage_server_raises_an_error_that_names_the_file(proxy: Proxy, bucket: str, mood: str) -> None:
    proxy.mood = mood  # type: ignore[assignment]
    with pytest.raises(StorageError, match=f"{bucket}/file"):
        Storage(proxy.endpoint_url).write(f"{bucket}/file", b"x")
    proxy.mood = "well"
    Storage(proxy.endpoint_url).write(f"{bucket}/file", b"x")


def soak(*options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.soak", *map(str, options)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.s3
@pytest.mark.ray
@pytest.mark.slow
def test_a_job_survives_an_unreliable_network(tmp_path: Path) -> None:
    done = soak("--seed", 1, "--faults", 2, "--kinds", "S3 network: cut", "S3 server", "--output", tmp_path / "table")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No flaws." in (tmp_path / "table").read_text()


@pytest.mark.slow
@pytest.mark.ray
def test_a_job_survives_one_fault_of_every_kind(tmp_path: Path) -> None:
    done = soak("--seed", 2, "--faults", len(KINDS))
    assert done.returncode == 0, done.stdout + done.stderr
