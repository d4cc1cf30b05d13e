"""Files are written atomically, and every failure is one sentence without secrets."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import fsspec
import pytest

from tests.seaweedfs import SeaweedServer
from tirazh.errors import InputError, OutputError, RequestError, StorageError
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage, full_uri, join, keep_trying


def test_a_write_replaces_an_existing_file(tmp_path: Path) -> None:
    path = str(tmp_path / "new/dir/part.parquet")
    Storage().write(path, b"first")
    Storage().write(path, b"second")
    assert Storage().read(path) == b"second"
    assert os.listdir(tmp_path / "new/dir") == ["part.parquet"]


@pytest.mark.parametrize("has_links", [True, False], ids=["hard links", "no hard links"])
def test_create_does_not_replace_an_existing_file(
    tmp_path: Path, has_links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(old: str, new: str) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not has_links:
        monkeypatch.setattr(os, "link", refuse)
    path = str(tmp_path / "deep/lease.json")
    assert Storage().create(path, b"first") is True
    assert Storage().create(path, b"second") is False
    assert Storage().read(path) == b"first"
    assert os.listdir(tmp_path / "deep") == ["lease.json"]


def test_a_file_with_another_modification_time_is_not_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"0123")
    (file,) = Storage().walk(str(path))
    assert Storage().is_same(file)
    os.utime(path, ns=(0, 1))
    assert not Storage().is_same(file)


def test_an_interrupted_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="the disk is full"):
        Storage().write(str(tmp_path / "part.parquet"), b"x" * 100)
    assert os.listdir(tmp_path) == []


def test_the_temporary_file_is_hidden_and_in_the_same_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renames = []
    monkeypatch.setattr(os, "replace", lambda old, new: renames.append((old, new)))
    Storage().write(str(tmp_path / "part.parquet"), b"x")
    ((old, new),) = renames
    assert os.path.dirname(old) == os.path.dirname(new)
    assert os.path.basename(old).startswith(".")


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("s3://key:secret@bucket/a.parquet", "s3://bucket/a.parquet"),
        ("https://host/x?sig=secret&se=1", "https://host/x"),
        ("/data/a.parquet", "/data/a.parquet"),
    ],
)
def test_secrets_in_uris_are_not_shown(uri: str, shown: str) -> None:
    assert show_uri(uri) == shown


def test_a_missing_or_unusable_path_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{tmp_path}/no.parquet does not exist"):
        Storage().read(str(tmp_path / "no.parquet"))
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/part\.parquet cannot be used"):
        Storage().write(str(tmp_path / "file/part.parquet"), b"")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_permission_is_named_in_the_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="cannot be written: permission denied"):
        Storage().write(str(tmp_path / "part.parquet"), b"")


def test_local_paths_become_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert full_uri("out/") == f"{tmp_path}/out"
    assert full_uri("file:///data/out") == "/data/out"
    assert full_uri("s3://bucket/out/") == "s3://bucket/out"
    assert join("s3://bucket/out/", "a", "b") == "s3://bucket/out/a/b"


def test_a_missing_extra_is_named_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_such_module(*arguments: object, **options: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.filesystem", no_such_module)
    with pytest.raises(RequestError, match=r"pip install 'tirazh\[s3\]'"):
        Storage().walk("s3://bucket/in")
    with pytest.raises(RequestError, match=r"pip install 'tirazh\[azure\]'"):
        Storage().read("az://container/in")


def test_a_short_outage_of_the_storage_is_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    answers = iter([StorageError("unavailable"), StorageError("unavailable"), None])

    def ask() -> str:
        error = next(answers)
        if error is not None:
            raise error
        return "here"

    assert keep_trying(ask) == "here"
    assert waits == [1.0, 2.0]


def test_retries_end_if_the_outage_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)

    def ask() -> None:
        raise StorageError("unavailable")

    with pytest.raises(StorageError, match="unavailable"):
        keep_trying(ask, for_s=0.5)


def test_an_address_without_a_server_fails_within_seconds(s3_credentials: None) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        start = time.monotonic()
        with pytest.raises(StorageError, match="did not respond"):
            Storage(f"http://127.0.0.1:{taken.getsockname()[1]}").walk("s3://bucket/in")
    assert time.monotonic() - start < 20


@pytest.mark.slow
def test_a_server_that_does_not_respond_fails_within_half_a_minute(s3_credentials: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        with pytest.raises(StorageError, match="did not respond"):
            Storage(f"http://127.0.0.1:{silent.getsockname()[1]}").names("s3://bucket/out")
    assert time.monotonic() - start < 30


@pytest.mark.s3
def test_object_storage_lists_reads_and_writes(s3_server: SeaweedServer) -> None:
    s3_server.make_bucket("storage-test")
    storage, root = Storage(s3_server.endpoint_url), "s3://storage-test/in"
    for name in ("b.parquet", "deep/a.parquet", "_hidden/c.parquet", "_SUCCESS"):
        storage.write(join(root, name), b"0123456789")
    assert sorted(file.key for file in storage.walk(root)) == ["b.parquet", "deep/a.parquet"]
    assert storage.names(root) == {"b.parquet": 10, "_SUCCESS": 10}
    assert storage.directories(root) == {"deep", "_hidden"}
    assert storage.glob(f"{root}/*.parquet") == [f"{root}/b.parquet"]
    (file,) = storage.walk(join(root, "b.parquet"))
    assert (file.uri, file.key, file.size) == (join(root, "b.parquet"), "b.parquet", 10)
    assert storage.read_tail(file, 4) == b"6789"
    with storage.open(file.uri) as opened:
        opened.seek(3)
        assert opened.read(2) == b"34"
    assert storage.is_same(file)
    assert storage.create(file.uri, b"other") is False
    storage.write(file.uri, b"9876543210")
    assert not storage.is_same(file)
    storage.remove(root, recursive=True)
    assert storage.names(root) == {}
    assert storage.create(file.uri, b"new") is True


@pytest.mark.s3
def test_a_refusal_of_object_storage_is_one_sentence(s3_server: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(s3_server.endpoint_url)
    s3_server.make_bucket("storage-refused")
    with pytest.raises(OutputError, match="s3://no-such-bucket/out: the bucket does not exist"):
        storage.write("s3://no-such-bucket/out", b"")
    with pytest.raises(InputError, match="s3://storage-refused/none does not exist"):
        storage.walk("s3://storage-refused/none")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    with pytest.raises(StorageError, match="refused to write") as refused:
        Storage(s3_server.endpoint_url + "/").write("s3://storage-refused/a", b"")
    assert "wrong-secret" not in str(refused.value)


@pytest.mark.s3
def test_the_endpoint_url_may_come_from_the_environment(
    s3_server: SeaweedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_server.make_bucket("storage-env")
    Storage(s3_server.endpoint_url).write("s3://storage-env/a", b"x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint_url)
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # a cached one would still have the old environment
    assert Storage().read("s3://storage-env/a") == b"x"
