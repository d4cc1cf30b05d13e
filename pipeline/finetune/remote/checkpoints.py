"""Checkpoints in an object store: immutable objects, and a marker that is written after all of them.

`ROOT/step-00000500-5f3c9a01.<8 hex digits of a run>/` holds the files of a checkpoint, the log up to its step, and
last `complete.json` with the size and the SHA-256 of each file. Without that marker nothing there counts. A directory
is written by one run, once: two runs never mix their files.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from tirazh.errors import InputError, StorageError
from tirazh.model.training.checkpoint import TrainingCheckpoint
from tirazh.model.training.config import Fence
from tirazh.model.training.log import parse_entry
from tirazh.pipeline.finetune.work_folder import WorkFolder
from tirazh.pipeline.model_cache.download import download, sha256_of
from tirazh.pipeline.storage.disk import StoredFile, sync_directory, write_disk
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage, join, keep_trying

FORMAT = 1
MARKER = "complete.json"
LOG = "losses.jsonl"
_NAME = re.compile(r"(step-(\d{8,})-[0-9a-f]{8})\.[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A complete checkpoint in a store. `name` is that of its directory on a disk; `files` has what the marker says:
    size and SHA-256 of each file."""

    uri: str
    name: str
    step: int
    files: dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class StoredCheckpoints:
    """The checkpoints of one training below `root`."""

    storage: Storage
    root: str
    training: str

    def find(self) -> list[StoredCheckpoint]:
        """Return the complete ones, the oldest first. Raises StorageError."""
        names = sorted(keep_trying(lambda: self.storage.directories(self.root)))
        found = [self._read(name) for name in names if _NAME.fullmatch(name)]
        return sorted((each for each in found if each is not None), key=lambda each: each.step)

    def upload(self, checkpoint: TrainingCheckpoint, log: Path, fence: Fence, *, run: str) -> StoredCheckpoint:
        """Upload a checkpoint and the log up to its step; the marker comes last.

        The directory gets the log as a file of its own, so it must not be that of the training. Raises JobError when
        the fence is lost, and StorageError or OutputError when the store refuses.
        """
        uri = join(self.root, f"{checkpoint.folder.name}.{run}")
        files: dict[str, dict[str, Any]] = {}
        for path in sorted(checkpoint.folder.iterdir()):
            files[path.name] = {"size": path.stat().st_size, "sha256": sha256_of(path)}
            fence.guard(partial(self.storage.upload, str(path), join(uri, path.name)))
        kept = checkpoint.folder / LOG
        write_disk(str(kept), log_until(log, checkpoint.step))
        files[LOG] = {"size": kept.stat().st_size, "sha256": sha256_of(kept)}
        fence.guard(partial(self.storage.upload, str(kept), join(uri, LOG)))
        marker = {"format": FORMAT, "training": self.training, "step": checkpoint.step, "files": files}
        fence.guard(lambda: self.storage.write(join(uri, MARKER), json.dumps(marker, indent=1).encode()))
        return StoredCheckpoint(uri, checkpoint.folder.name, checkpoint.step, files)

    def fetch(self, stored: StoredCheckpoint, work: WorkFolder, *, with_log: bool) -> None:
        """Download a checkpoint into the work folder, and with `with_log` the log that belongs to it.

        It gets its name when it is whole and on disk. Raises StorageError for one that is damaged or cannot be read.
        """
        target = work.checkpoints / stored.name
        incoming = target.with_name(f".{stored.name}.{uuid4().hex}.partial")
        incoming.mkdir(parents=True)
        try:
            for name, facts in stored.files.items():
                file = StoredFile(join(stored.uri, name), name, int(facts["size"]), "")
                if download(file, incoming / name, self.storage) != facts["sha256"]:
                    raise StorageError(
                        f"the checkpoint {show_uri(stored.uri)} is damaged: {name} has another content than when it "
                        "was written; remove this directory to go on from the checkpoint before it"
                    )
            if with_log:
                (incoming / LOG).replace(work.log)
            else:
                (incoming / LOG).unlink()
            sync_directory(str(incoming))
            incoming.rename(target)
            sync_directory(str(target.parent))
        finally:
            shutil.rmtree(incoming, ignore_errors=True)

    def remove_others(self, kept: Sequence[StoredCheckpoint], fence: Fence) -> None:
        """Remove all but the `kept` ones, and what runs that were killed have left."""
        uris = [each.uri for each in kept]
        for name in sorted(keep_trying(lambda: self.storage.directories(self.root))):
            uri = join(self.root, name)
            if uri in uris or _NAME.fullmatch(name) is None:
                continue
            fence.guard(partial(self.storage.remove, join(uri, MARKER)))  # first: a directory with one is always whole
            fence.guard(partial(self.storage.remove, uri, recursive=True))

    def _read(self, name: str) -> StoredCheckpoint | None:
        uri, match = join(self.root, name), _NAME.fullmatch(name)
        assert match is not None
        try:
            values = json.loads(keep_trying(lambda: self.storage.read(join(uri, MARKER))))
            files = {str(file): dict(facts) for file, facts in values["files"].items()}
        except InputError:  # it is not complete, or is being removed
            return None
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        if values.get("format") != FORMAT or values.get("training") != self.training or values.get("step") is None:
            return None
        return StoredCheckpoint(uri, match[1], int(match[2]), files)


def log_until(log: Path, step: int) -> bytes:
    """The lines of a training's log up to a step."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return b""
    entries = ((line, parse_entry(line)) for line in lines)
    return "".join(f"{line}\n" for line, entry in entries if entry is not None and entry["step"] <= step).encode()
