"""The directories of the Ray that is started on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tirazh.errors import RequestError
from tirazh.pipeline.execution import temporary_files
from tirazh.pipeline.execution.temporary_files import MAX_SOCKET_BYTES, ray_directories

MIB = 1 << 20


@pytest.fixture(autouse=True)
def plenty(monkeypatch: pytest.MonkeyPatch) -> dict[str, int | None]:
    """The free bytes of each directory; plenty where nothing else is set."""
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    free: dict[str, int | None] = {}
    monkeypatch.setattr(temporary_files, "_free_bytes", lambda directory: free.get(str(directory), 1 << 40))
    return free


def test_the_usual_directories_are_left_to_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/tmp")
    told: list[str] = []
    assert ray_directories(told.append) == {}
    assert told == []


def test_a_path_too_long_for_a_socket_is_replaced_by_a_short_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    long = tmp_path / ("x" * MAX_SOCKET_BYTES)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    told: list[str] = []
    assert ray_directories(told.append) == {"_temp_dir": "/tmp/ray"}
    assert "too long for Ray's sockets" in told[0]
    assert told[0].endswith("Ray uses /tmp")


@pytest.mark.parametrize(
    ("directory", "free", "says"), [("/no/such", 1 << 40, "does not exist"), ("/tmp", 5 * MIB, "only 5.0 MiB free")]
)
def test_a_directory_that_is_missing_or_full_is_named(
    directory: str, free: int, says: str, monkeypatch: pytest.MonkeyPatch, plenty: dict[str, int | None]
) -> None:
    monkeypatch.setenv("TMPDIR", directory)
    plenty[directory] = free
    told: list[str] = []
    ray_directories(told.append)
    assert says in told[0]


def test_no_directory_at_all_is_refused_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, plenty: dict[str, int | None]
) -> None:
    monkeypatch.setenv("TMPDIR", "/tmp")
    plenty.update({"/tmp": 0, "/var/tmp": 0, "/dev/shm": 0})
    with pytest.raises(RequestError, match=r"/tmp has only 0.0 MiB free.*set TMPDIR"):
        ray_directories(None)


def test_small_shared_memory_is_told(plenty: dict[str, int | None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/tmp")
    plenty["/dev/shm"] = 64 * MIB
    told: list[str] = []
    assert ray_directories(told.append) == {}
    assert "/dev/shm has only 64 MiB free" in told[0]
    assert "--shm-size" in told[0]


def test_without_shared_memory_ray_keeps_its_objects_on_the_disk(
    plenty: dict[str, int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", "/tmp")
    plenty["/dev/shm"] = None
    told: list[str] = []
    assert ray_directories(told.append) == {"_plasma_directory": "/tmp", "object_store_memory": 2 << 30}
    assert "there is no /dev/shm" in told[0]
