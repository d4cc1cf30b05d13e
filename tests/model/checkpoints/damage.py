"""Damaged model directories by name: a function that makes each, and words that its error must contain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tirazh.errors import CheckpointError
from tirazh.model.checkpoints.directory import describe, open_checkpoint

Make = Callable[[Path], Path]


class Cases(dict[str, tuple[Make, str]]):
    def add(self, name: str, words: str) -> Callable[[Make], Make]:
        """Register a function that makes a damaged directory and returns its path, and words of the expected error."""

        def register(make: Make) -> Make:
            self[name] = (make, words)
            return make

        return register

    def check(self, name: str, tmp_path: Path) -> None:
        make, words = self[name]
        folder = make(tmp_path)
        with pytest.raises(CheckpointError) as caught:
            open_checkpoint(str(folder))
        sentence = str(caught.value)
        assert words in sentence
        assert str(tmp_path) in sentence
        assert "\n" not in sentence
        assert len(sentence) < 600


def truncated(path: Path, keep: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])


def refusal(folder: Path) -> str:
    """Return the one sentence with which a directory is refused when a job is planned."""
    with pytest.raises(CheckpointError) as caught:
        describe(str(folder))
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)
