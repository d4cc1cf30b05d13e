"""The error of a disk that is full while a training writes to it."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tirazh.errors import JobError
from tirazh.model.byte_text import bytes_text
from tirazh.model.training.disk_room import explaining_full_disk, free_bytes


def test_a_full_disk_is_explained_with_need_and_room(tmp_path: Path) -> None:
    with pytest.raises(JobError) as caught, explaining_full_disk(tmp_path / "out", needed=5 << 20):
        raise OSError(errno.ENOSPC, "No space left on device")
    sentence = str(caught.value)
    assert sentence.startswith(f"the disk of {tmp_path}/out is full: a checkpoint takes 5.0 MiB, and ")
    assert "is free now; make room, then run the same command to resume from the last checkpoint" in sentence


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), explaining_full_disk(tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_the_room_is_that_of_the_nearest_directory_that_exists(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "not" / "yet") == pytest.approx(free_bytes(tmp_path), rel=0.05)
    assert bytes_text(3 << 29) == "1.5 GiB"
