"""Files are written atomically, and every failure is one sentence without secrets."""

from __future__ import annotations

import errno
import os
import socket
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from uuid import uuid4

import fsspec
import pytest

from tests.seaweedfs import SeaweedServer
from tirazh.errors import InputError, OutputError, RequestError, StorageError
from tirazh.pipeline.storage import disk
from tirazh.pipeline.storage import filesystem as filesystem_module
from tirazh.pipeline.storage.disk import StoredFile
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage, full_uri, join, keep_trying
from tirazh.pipeline.storage.patterns import Pattern


def test_a_write_replaces_an_existing_file(tmp_path: Path) -> None:
    path = str(tmp_path / "new/dir/part.parquet")
    Storage().write(path, b"first")
    Storage().write(path, b"second")
    assert Storage().read(path) == b"second"
    assert os.listdir(tmp_path / "new/dir") == ["part.parquet"]


def refuse(*arguments: object) -> None:
    raise PermissionError(1, "Operation not permitted")


@pytest.fixture(params=["hard links", "exclusive renames", "neither"])
def ability(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the file system offers for creating a file exclusively."""
    if request.param != "hard links":
        monkeypatch.setattr(os, "link", refuse)
    if request.param == "neither":
        monkeypatch.setattr(disk, "rename_without_replacing", lambda path, target: None)
    return str(request.param)


@pytest.mark.usefixtures("ability")
def test_create_does_not_replace_an_existing_file(tmp_path: Path) -> None:
    path = str(tmp_path / "deep/lease.json")
    assert Storage().create(path, b"first") is True
    assert Storage().create(path, b"second") is False
    assert Storage().read(path) == b"first"
    assert os.listdir(tmp_path / "deep") == ["lease.json"]


def test_one_of_many_concurrent_callers_creates_the_file(ability: str, tmp_path: Path) -> None:
    created_by_one(Storage(), str(tmp_path / "out"))


def test_one_of_many_concurrent_callers_creates_the_file_in_memory() -> None:
    created_by_one(Storage(), f"memory://{uuid4().hex}")


@pytest.mark.s3
@pytest.mark.parametrize("rounds", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_one_of_many_concurrent_callers_creates_the_object(rounds: int, s3_server: SeaweedServer) -> None:
    bucket = s3_server.make_bucket(f"create-{uuid4().hex[:12]}")
    created_by_one(Storage(s3_server.endpoint_url), bucket, rounds=rounds)


def created_by_one(storage: Storage, directory: str, *, rounds: int = 20, callers: int = 8) -> None:
    with ThreadPoolExecutor(callers) as threads:
        for name in range(rounds):
            uri, start = join(directory, str(name)), Barrier(callers)

            def create(data: bytes, uri: str = uri, start: Barrier = start) -> bool:
                start.wait()
                return storage.create(uri, data)

            contents = [f"content {caller} ".encode() * 1000 for caller in range(callers)]
            created = list(threads.map(create, contents))
            assert created.count(True) == 1
            assert storage.read(uri) == contents[created.index(True)]


def test_a_reader_never_sees_a_part_of_a_created_file(ability: str, tmp_path: Path) -> None:
    """Where neither hard links nor exclusive renames exist, it may see an empty file for a moment."""
    seen: set[int] = set()
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.is_set():
            seen.update(status.stat().st_size for status in os.scandir(tmp_path) if not status.name.startswith("."))

    watcher = threading.Thread(target=watch)
    watcher.start()
    for name in range(30):
        Storage().create(str(tmp_path / str(name)), b"x" * 1_000_000)
    is_over.set()
    watcher.join()
    assert seen <= ({0, 1_000_000} if ability == "neither" else {1_000_000})


def test_a_link_whose_response_nfs_lost_is_recognised_as_our_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def link_twice(old: str, new: str) -> None:
        link(old, new)
        link(old, new)

    monkeypatch.setattr(os, "link", link_twice)
    assert Storage().create(str(tmp_path / "lease.json"), b"x") is True


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF, errno.EPERM])
def test_a_file_system_that_does_not_sync_directories_is_written_to_with_one_warning(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sync = os.fsync

    def refuse_directories(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        sync(handle)

    disk._warned.clear()
    monkeypatch.setattr(os, "fsync", refuse_directories)
    for name in ("a", "new/b"):
        Storage().write(str(tmp_path / name), b"x")
    assert Storage().create(str(tmp_path / "leases/c"), b"x")
    Storage().move(str(tmp_path / "a"), str(tmp_path / "moved/a"))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "does not sync directories" in caplog.text


def test_a_directory_that_fails_to_sync_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = os.fsync

    def fail_directories(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EIO, "Input/output error")
        sync(handle)

    monkeypatch.setattr(os, "fsync", fail_directories)
    with pytest.raises(StorageError, match="Input/output error"):
        Storage().write(str(tmp_path / "a"), b"x")


@pytest.fixture(params=["disk", "memory", pytest.param("s3", marks=pytest.mark.s3)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Storage, str]:
    """An empty directory on each type of storage that is available to tests."""
    if request.param == "disk":
        return Storage(), str(tmp_path / "out")
    if request.param == "memory":
        return Storage(), f"memory://{uuid4().hex}/out"
    server: SeaweedServer = request.getfixturevalue("s3_server")
    return Storage(server.endpoint_url), f"{server.make_bucket(f'files-{uuid4().hex[:12]}')}/out"


def test_a_move_replaces_the_target_and_may_be_repeated(place: tuple[Storage, str]) -> None:
    storage, root = place
    source, target = join(root, "_tirazh/staged/a.parquet"), join(root, "a.parquet")
    storage.write(source, b"new")
    storage.write(target, b"old")
    for _ in range(2):
        storage.move(source, target)
        assert storage.read(target) == b"new"
        assert storage.names(join(root, "_tirazh/staged")) == {}
    # An interruption between the copy and the removal leaves both.
    storage.write(source, b"new")
    storage.move(source, target)
    assert storage.names(root) == {"a.parquet": 3}
    with pytest.raises(OutputError, match="does not exist"):
        storage.move(join(root, "none"), join(root, "other"))


def test_a_rewritten_file_is_not_the_same_even_with_its_old_modification_time(tmp_path: Path) -> None:
    """What `rsync -t`, `cp -p` and tar do."""
    path = tmp_path / "a.parquet"
    path.write_bytes(b"0123")
    os.utime(path, ns=(0, 1))
    (file,) = Storage().walk(str(path))
    assert Storage().is_same(file)
    before = path.stat().st_ctime_ns
    while path.stat().st_ctime_ns == before:  # the clock of a file system ticks every few milliseconds
        path.write_bytes(b"3210")
        os.utime(path, ns=(0, 1))
    assert not Storage().is_same(file)


def test_an_object_replaced_by_one_of_the_same_size_is_not_the_same(place: tuple[Storage, str]) -> None:
    storage, root = place
    storage.write(join(root, "a.parquet"), b"0123")
    (file,) = storage.walk(root)
    assert file.version
    assert storage.is_same(file)
    storage.write(join(root, "a.parquet"), b"3210")
    assert not storage.is_same(file)


@pytest.mark.parametrize(
    ("listed", "now", "is_same"),
    [
        ({"generation": "1", "etag": "x"}, {"generation": "2", "etag": "y"}, False),  # GCS
        ({"generation": "1", "etag": "x"}, {"generation": "1", "etag": "y"}, True),  # GCS: other metadata only
        ({"etag": "0x8D1"}, {"etag": '"0x8D1"'}, True),  # Azure: quoted in one answer only
        ({"etag": "0x8D1"}, {"etag": '"0x8D2"', "last_modified": "t"}, False),
        ({"etag": "0x8D1"}, {}, True),  # nothing to compare but the size
    ],
)
def test_versions_are_compared_where_both_answers_have_one(
    listed: dict[str, str], now: dict[str, str], is_same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Store:
        def info(self, uri: str) -> dict[str, object]:
            return {"size": 4, **now}

    monkeypatch.setattr(Storage, "_filesystem", lambda self, uri: Store())
    file = StoredFile("gs://bucket/a", "a", 4, filesystem_module._version(listed))
    assert Storage().is_same(file) is is_same


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
    assert [file.uri for file in storage.list_matching(Pattern(f"{root}/*.parquet")).files] == [f"{root}/b.parquet"]
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
