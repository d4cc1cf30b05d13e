"""A model in an object store is fetched once for a machine, checked, repaired and removed again; with a real store."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import REPOSITORY
from tests.seaweedfs import SeaweedServer
from tirazh.errors import CheckpointError, RequestError, StorageError
from tirazh.model.load import EMBEDDED_DIR
from tirazh.pipeline.model_cache import remote_model
from tirazh.pipeline.model_cache.remote_model import RemoteModel, find_model, local_tokenizer_dir, telling_of_downloads
from tirazh.pipeline.storage.filesystem import Storage

pytestmark = pytest.mark.s3
FETCH = """
import sys
from tirazh.errors import TirazhError
from tirazh.pipeline.model_cache.remote_model import find_model, telling_of_downloads
from tirazh.pipeline.storage.filesystem import Storage
try:
    with telling_of_downloads(lambda text: print(text, flush=True)):
        print(find_model(sys.argv[1], Storage(sys.argv[2]))[0])
except TirazhError as error:
    print(f"{type(error).__name__}: {error}")
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, as a process that has just started sees it."""
    monkeypatch.setenv("TIRAZH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote_model, "_checked", {})
    return tmp_path / "cache"


@pytest.fixture
def stored(s3_server: SeaweedServer) -> str:
    """The embedded model in a bucket of its own."""
    return store_model(s3_server, f"models-{uuid4().hex[:12]}")


def store_model(server: SeaweedServer, bucket: str, name: str = "tiny") -> str:
    uri, storage = f"{server.make_bucket(bucket)}/{name}", Storage(server.endpoint_url)
    for path in Path(EMBEDDED_DIR).iterdir():
        if path.is_file():
            storage.write(f"{uri}/{path.name}", path.read_bytes())
    return uri


def fetch(uri: str, server: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> tuple[str, list[str]]:
    """Find the model as a new process does; return its directory and what was told."""
    monkeypatch.setattr(remote_model, "_checked", {})
    told: list[str] = []
    with telling_of_downloads(told.append):
        directory, _ = find_model(uri, Storage(server.endpoint_url))
    return directory, told


def files_of(directory: str | Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(directory).iterdir() if path.is_file()}


def test_a_model_is_fetched_once_and_has_the_same_bytes(
    stored: str, s3_server: SeaweedServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, told = fetch(stored, s3_server, monkeypatch)
    assert Path(directory).parent == cache
    assert files_of(directory) == files_of(EMBEDDED_DIR)
    assert len(told) == 1
    assert told[0].startswith(f"fetching {stored} (")
    assert fetch(stored, s3_server, monkeypatch) == (directory, [])


def test_a_damaged_file_is_found_and_fetched_again(
    stored: str, s3_server: SeaweedServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, _ = fetch(stored, s3_server, monkeypatch)
    weights = Path(directory) / "model.safetensors"
    with weights.open("r+b") as stream:
        stream.seek(1_000_000)
        stream.write(b"\xff\x00\xff")
    (Path(directory) / "config.json").unlink()
    _, told = fetch(stored, s3_server, monkeypatch)
    assert len(told) == 1
    assert files_of(directory) == files_of(EMBEDDED_DIR)
    next(cache.glob("*.json")).write_text("{}")  # nothing is known about the files: none counts
    assert len(fetch(stored, s3_server, monkeypatch)[1]) == 1


def test_a_model_that_changes_in_the_store_is_fetched_under_another_key(
    stored: str, s3_server: SeaweedServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, _ = fetch(stored, s3_server, monkeypatch)
    _, model = find_model(stored, Storage(s3_server.endpoint_url))
    assert model is not None
    config = (Path(EMBEDDED_DIR) / "config.json").read_bytes()
    Storage(s3_server.endpoint_url).write(f"{stored}/config.json", config + b"\n")
    after, _ = fetch(stored, s3_server, monkeypatch)
    assert before != after
    monkeypatch.setattr(remote_model, "_checked", {})
    with pytest.raises(CheckpointError, match="was changed since the run began; start the run again"):
        model()


def test_a_download_that_was_killed_does_not_count(
    stored: str, s3_server: SeaweedServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, _ = fetch(stored, s3_server, monkeypatch)
    shutil.rmtree(cache)
    process = start_fetch(stored, s3_server, cache)
    deadline = time.monotonic() + 60
    while not list(cache.glob("*/.*.incoming")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.kill()
    process.communicate()
    _, told = fetch(stored, s3_server, monkeypatch)
    assert len(told) == (0 if process.returncode == 0 else 1)
    assert files_of(directory) == files_of(EMBEDDED_DIR)


def test_processes_that_start_together_fetch_once(stored: str, s3_server: SeaweedServer, cache: Path) -> None:
    outputs = [process.communicate()[0] for process in [start_fetch(stored, s3_server, cache) for _ in range(3)]]
    lines = [line for output in outputs for line in output.splitlines()]
    assert len([line for line in lines if line.startswith("fetching")]) == 1, outputs
    assert len({line for line in lines if line.startswith(str(cache))}) == 1


def test_the_model_that_was_not_used_for_the_longest_time_is_removed(
    s3_server: SeaweedServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = f"models-{uuid4().hex[:12]}"
    first = store_model(s3_server, bucket, "first")
    storage = Storage(s3_server.endpoint_url)
    others = [f"s3://{bucket}/{name}" for name in ("second", "third")]
    for uri in others:
        for name, data in files_of(EMBEDDED_DIR).items():
            storage.write(f"{uri}/{name}", data)
    size = sum(map(len, files_of(EMBEDDED_DIR).values()))
    monkeypatch.setenv("TIRAZH_CACHE_GIB", str(2.5 * size / 2**30))

    def held(uri: str) -> str:
        """Fetch in a process that has ended; return the directory."""
        return start_fetch(uri, s3_server, cache).communicate()[0].splitlines()[-1]

    kept, _ = fetch(first, s3_server, monkeypatch)  # this process uses it until it ends
    second, third = map(held, others)
    assert [Path(each).is_dir() for each in (kept, second, third)] == [True, False, True]
    held(others[0])
    assert [Path(each).is_dir() for each in (kept, second, third)] == [True, True, False]


def test_a_machine_without_replicas_fetches_no_weights(
    stored: str, s3_server: SeaweedServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, model = find_model(stored, Storage(s3_server.endpoint_url))
    assert isinstance(model, RemoteModel)
    shutil.rmtree(cache)
    monkeypatch.setattr(remote_model, "_checked", {})
    directory = local_tokenizer_dir(model.text())
    assert set(files_of(directory)) == set(files_of(EMBEDDED_DIR)) - {"model.safetensors"}
    assert model() == directory
    assert files_of(directory) == files_of(EMBEDDED_DIR)
    assert local_tokenizer_dir("/models/xl") == "/models/xl"


def test_a_full_disk_is_one_sentence(stored: str, s3_server: SeaweedServer, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    program = f"{shlex.quote(sys.executable)} -c {shlex.quote(FETCH)} {stored} {s3_server.endpoint_url}"
    mount = f"mount -t tmpfs -o size=4m tmpfs {small}"
    unshare = ["unshare", "-rm", "sh", "-c"]
    if subprocess.run([*unshare, mount], check=False, capture_output=True).returncode:
        pytest.skip("this user may not mount a disk of a size of its own")
    environment = environment_of(s3_server, small)
    done = subprocess.run([*unshare, f"{mount} && {program}"], env=environment, capture_output=True, text=True)
    last = done.stdout.splitlines()[-1]
    assert last.startswith(f"StorageError: the model {stored} does not fit into the cache {small} on machine ")
    assert last.endswith("MiB are free; free space there, or set TIRAZH_CACHE to a larger disk")


def test_what_is_no_model_is_one_sentence(
    stored: str, s3_server: SeaweedServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CheckpointError, match=r"there is no model at s3://.*does not exist"):
        find_model(f"{stored}-2", Storage(s3_server.endpoint_url))
    with pytest.raises(CheckpointError, match="is one file; give the directory"):
        find_model(f"{stored}/config.json", Storage(s3_server.endpoint_url))
    with pytest.raises(RequestError, match="the scheme hf:// is not supported"):
        find_model("hf://org/model", Storage())
    monkeypatch.setenv("TIRAZH_CACHE_GIB", "much")
    with pytest.raises(RequestError, match="TIRAZH_CACHE_GIB must be a number of GiB above 0, not 'much'"):
        find_model(stored, Storage(s3_server.endpoint_url))


def test_a_cache_that_cannot_be_written_names_the_variable(
    stored: str, s3_server: SeaweedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TIRAZH_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match=rf"cannot be kept in {tmp_path}/file.*TIRAZH_CACHE names another directory"):
        fetch(stored, s3_server, monkeypatch)


@pytest.mark.ray
def test_a_job_with_a_model_in_a_store_gives_the_rows_of_the_same_model_on_a_disk(
    stored: str, s3_server: SeaweedServer, cache: Path, tmp_path: Path, ray_local: None
) -> None:
    import tirazh

    pq.write_table(pa.table({"text": [f"Команда {i} выиграла матч" for i in range(6)]}), tmp_path / "in.parquet")
    job: Any = {
        **{"input": tmp_path / "in.parquet", "labels": ["sport", "economics"], "dtype": "float32", "replicas": 2},
        **{"endpoint_url": s3_server.endpoint_url, "part_rows": 3},
    }
    remote = tirazh.classify(**job, output=str(tmp_path / "remote"), model=stored)
    local = tirazh.classify(**job, output=str(tmp_path / "local"), model="embedded")
    tables = [
        pa.concat_tables(map(pq.read_table, sorted((tmp_path / name).glob("part-*.parquet"))))
        for name in ("remote", "local")
    ]
    assert tables[0].equals(tables[1])
    assert remote.errors == local.errors == 0
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 1


def environment_of(server: SeaweedServer, cache: Path) -> dict[str, str]:
    return {**os.environ, **server.environment, "TIRAZH_CACHE": str(cache), "PYTHONPATH": str(REPOSITORY)}


def start_fetch(uri: str, server: SeaweedServer, cache: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, uri, server.endpoint_url],
        env=environment_of(server, cache),
        stdout=subprocess.PIPE,
        text=True,
    )
