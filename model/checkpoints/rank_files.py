"""Finds the torch pickles of a ru-gpts or Megatron checkpoint, one for every model-parallel rank.

Layouts: `mp_rank_RR_model_states.pt` in the directory itself, or `mp_rank_RR/model_optim_rng.pt`
(Megatron), or either in a subdirectory that a tracker file names. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tirazh.errors import CheckpointError

TRACKERS = ("latest_checkpointed_iteration.txt", "latest")
_RANK_FILE = re.compile(r"mp_rank_(\d+)_model_states\.pt")
_RANK_FOLDER = re.compile(r"mp_rank_(\d+)")
_MEGATRON_FILE = "model_optim_rng.pt"


@dataclass(frozen=True, slots=True)
class RankFiles:
    """The weight files of one checkpoint in rank order.

    `kind` is the layout, `folder` where the files were found. `notices` name other checkpoints there.
    """

    kind: Literal["rugpts", "megatron"]
    folder: Path
    files: tuple[Path, ...]
    notices: tuple[str, ...] = ()


def find_rank_files(root: Path) -> RankFiles | None:
    """Find the checkpoint in `root`, or in the directory that its tracker file names, or None.

    Raises CheckpointError for a tracker file without its checkpoint, and for missing ranks.
    """
    folders = [folder for folder in dict.fromkeys((root, *_tracked(root))) if _holds_ranks(folder)]
    if folders:
        found = _ranks_in(folders[0])
        assert found is not None
        others = ", ".join(map(str, folders[1:]))
        line = f"{root}: the checkpoint is read from {found.files[0]}; that of {others}, which a tracker names, is not"
        return replace(found, notices=(line,)) if others else found
    tracker = next((root / name for name in TRACKERS if (root / name).is_file()), None)
    if tracker is None:
        return None
    raise CheckpointError(
        f"{tracker} names {_tracker_word(tracker)!r}, but {root} has no checkpoint of that name; looked for "
        f"mp_rank_00_model_states.pt and mp_rank_00/{_MEGATRON_FILE} in {', '.join(map(str, _tracked(root)))}"
    )


def _tracked(root: Path) -> list[Path]:
    """Return the directories that the tracker files may mean, by DeepSpeed's and by Megatron's naming."""
    folders = []
    for name in TRACKERS:
        if (root / name).is_file():
            word = _tracker_word(root / name)
            folders += [root / word, *([root / f"iter_{int(word):07d}"] if word.isdecimal() else [])]
    return folders


def _holds_ranks(folder: Path) -> bool:
    return folder.is_dir() and any(
        _RANK_FILE.fullmatch(path.name) or (_RANK_FOLDER.fullmatch(path.name) and (path / _MEGATRON_FILE).is_file())
        for path in folder.iterdir()
    )


def _tracker_word(tracker: Path) -> str:
    # The word becomes a part of a path, and the file is untrusted.
    with tracker.open(encoding="utf-8", errors="replace") as file:
        word = file.read(4_096).strip()
    if not re.fullmatch(r"[\w.-]{1,100}", word, re.ASCII) or word in {".", ".."}:
        raise CheckpointError(f"{tracker} must hold an iteration number or the word release, not {word[:40]!r}")
    return word


def _ranks_in(folder: Path) -> RankFiles | None:
    if not folder.is_dir():
        return None
    files = {int(m[1]): path for path in folder.iterdir() if (m := _RANK_FILE.fullmatch(path.name))}
    if files:
        return RankFiles("rugpts", folder, _in_order(files, folder))
    files = {
        int(m[1]): path / _MEGATRON_FILE
        for path in folder.iterdir()
        if (m := _RANK_FOLDER.fullmatch(path.name)) and (path / _MEGATRON_FILE).is_file()
    }
    return RankFiles("megatron", folder, _in_order(files, folder)) if files else None


def _in_order(files: Mapping[int, Path], folder: Path) -> tuple[Path, ...]:
    missing = sorted(set(range(max(files) + 1)) - set(files))
    if missing:
        names = ", ".join(f"mp_rank_{rank:02d}" for rank in missing)
        verb = "is" if len(missing) == 1 else "are"
        raise CheckpointError(
            f"{folder} has mp_rank_{max(files):02d}, but {names} {verb} missing; copy every mp_rank file"
        )
    return tuple(files[rank] for rank in sorted(files))
