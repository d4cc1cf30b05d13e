"""The soak test (`make soak`) in small: its plans, its proxy in front of a real S3 server, and a few real faults."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.seaweedfs import SeaweedServer
from tests.soak.comparison import compare
from tests.soak.faults import KINDS
from tests.soak.proxy import Proxy
from tests.soak.schedule import make_plans, share_out
from tirazh.errors import StorageError
from tirazh.pipeline.storage.filesystem import Storage

ROWS = {f"row-{row}": {"id": f"row-{row}", "completion": str(row)} for row in range(3)}


def test_the_seed_determines_kinds_times_and_targets_of_the_faults() -> None:
    plans = [make_plans(200, list(KINDS), random.Random(seed), can_fill=True) for seed in (7, 7, 8)]
    assert plans[0] == plans[1] != plans[2]


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
@pytest.mark.parametrize("mood", ["503", "SlowDown"])
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
def test_a_job_survives_an_unreliable_network(tmp_path: Path) -> None:
    done = soak("--seed", 1, "--faults", 2, "--kinds", "S3 network: cut", "S3 server", "--output", tmp_path / "table")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No flaws." in (tmp_path / "table").read_text()


@pytest.mark.slow
@pytest.mark.ray
def test_a_job_survives_one_fault_of_every_kind(tmp_path: Path) -> None:
    done = soak("--seed", 2, "--faults", len(KINDS))
    assert done.returncode == 0, done.stdout + done.stderr
