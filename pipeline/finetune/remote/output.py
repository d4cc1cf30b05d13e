"""An output in an object store, and the directory on a disk where its training works.

The store has the truth: which trainings there are, their requests, their complete checkpoints, the model. The directory
has the data, the log and the checkpoints while workers read and write them. On another machine, or when the directory
is gone, the data are made again from the input, and the newest checkpoint is fetched.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tirazh.errors import InputError
from tirazh.model.byte_text import bytes_text
from tirazh.model.training.checkpoint import find_checkpoints
from tirazh.model.training.config import Fence
from tirazh.model.training.log import parse_entry, read_log
from tirazh.pipeline.finetune.output import TrainingOutput
from tirazh.pipeline.finetune.remote.checkpoints import StoredCheckpoints
from tirazh.pipeline.finetune.remote.fence import OccasionalFence
from tirazh.pipeline.finetune.remote.mirror import CheckpointMirror, Mirrored
from tirazh.pipeline.finetune.saved_steps import note_saved_step
from tirazh.pipeline.finetune.work_folder import FORMAT
from tirazh.pipeline.output.leases.fence import LeaseToken
from tirazh.pipeline.output.leases.record import epochs, parse, read_epoch
from tirazh.pipeline.output.names import LEASES, OWN, OutputFiles
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage, is_remote, join

_DEFAULT = "~/.cache/tirazh/trainings"


def working_directory(output: str, work_dir: str | None) -> Path:
    """Return the directory where a training works: its output, or for one in a store a directory below `work_dir`."""
    if not is_remote(output):
        return Path(output)
    name = hashlib.sha256(output.encode()).hexdigest()[:20]
    return Path(os.path.abspath(os.path.expanduser(work_dir or _DEFAULT))) / name


def open_output(output: str, storage: Storage, work_dir: str | None) -> TrainingOutput:
    """Return the output at an absolute path or a URI."""
    folder = working_directory(output, work_dir)
    return StoredOutput(folder, OutputFiles(storage, output)) if is_remote(output) else TrainingOutput(folder)


@dataclass(frozen=True, slots=True)
class StoredOutput(TrainingOutput):
    """`folder` is the directory on a disk, and `files` the output in the store."""

    files: OutputFiles

    @property
    def shown(self) -> str:
        return show_uri(self.files.directory)

    def write_request(self, values: Mapping[str, Any]) -> None:
        data = json.dumps({"format": FORMAT} | dict(values), ensure_ascii=False, indent=1)
        self.files.storage.write(self.uri(*self._names_of(self.work(values["training"]).request)), data.encode())

    def worker_fence(self, token: LeaseToken) -> Fence:
        return OccasionalFence(token)

    def stored(self, training: str) -> StoredCheckpoints:
        """Return the checkpoints of a training in the store."""
        root = self.uri(*self._names_of(self.work(training).checkpoints))
        return StoredCheckpoints(self.files.storage, root, training)

    def stored_kept(self, training: str) -> StoredCheckpoints:
        """Return the last checkpoint of the model's training in the store, where it was kept."""
        return StoredCheckpoints(self.files.storage, self.uri(*self._names_of(self.checkpoints)), training)

    def read_log(self, training: str) -> list[dict[str, Any]]:
        """Return the log as it was uploaded with the last checkpoint or at the end of a run, or that on the disk, which
        may be longer."""
        data = self._read(*self._names_of(self.work(training).log)) or b""
        found = map(parse_entry, data.decode("utf-8", errors="replace").splitlines())
        return max([entry for entry in found if entry is not None], read_log(self.work(training).log), key=len)

    def bring_checkpoints(self, training: str, *, keeps_best: bool, tell: Callable[[str], None] | None = None) -> None:
        """Fetch the checkpoints that the disk lacks: the newest, and with `keeps_best` all, as one of them is the best.

        A newer one on the disk stays: it was not uploaded before this machine's last run ended.
        """
        work = self.work(training)
        here = {each.step for each in find_checkpoints(work.checkpoints, training)}
        stored = self.stored(training).find()
        if not stored:
            return
        is_newer = stored[-1].step > max(here, default=-1)
        wanted = stored if keeps_best else stored[-1:] if is_newer else []
        for each in wanted:
            if each.step not in here:
                if tell is not None:
                    size = bytes_text(sum(int(facts["size"]) for facts in each.files.values()))
                    tell(f"Fetching the checkpoint of step {each.step:,} ({size}) from {self.shown}")
                self.stored(training).fetch(each, work, with_log=is_newer and each is stored[-1])

    def uploading(
        self, training: str, token: LeaseToken, *, run: str, keeps_best: bool
    ) -> AbstractContextManager[object]:
        """Inside the block new checkpoints are uploaded (`mirror.py`)."""
        work = self.work(training)
        mirrored = Mirrored(
            work=work,
            stored=self.stored(training),
            folder=self.uri(*self._names_of(work.folder)),
            fence=token,
            run=run,
            keeps_best=keeps_best,
            note=partial(note_saved_step, self.files.directory),
        )
        return CheckpointMirror(mirrored, work.of_run("stop", run))

    def remove_if_empty(self) -> None:
        """Remove what a run that was refused has left in the store and on the disk: its released lease, directories."""
        TrainingOutput.remove_if_empty(self)  # super() does not work in a dataclass with slots
        with suppress(InputError):
            numbers = epochs(self.files)
            record = parse(read_epoch(self.files, numbers[0])) if len(numbers) == 1 else None
            if record is not None and record.released and self._list() == [OWN] and self._list(OWN) == [LEASES]:
                self.files.storage.remove(self.files.lease_file(numbers[0]))

    def remove_work_files(self) -> None:
        """Remove the directory on the disk. Nothing in it is needed once the model is in the store."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def uri(self, *names: str) -> str:
        """Return the URI of a file of the output in the store."""
        return join(self.files.directory, *names)

    def _has(self, *names: str) -> bool:
        return names[-1] in self.files.storage.names(self.uri(*names[:-1]))

    def _read(self, *names: str) -> bytes | None:
        try:
            return self.files.storage.read(self.uri(*names))
        except InputError:  # there is none
            return None

    def _list(self, *names: str) -> list[str]:
        directory, storage = self.uri(*names), self.files.storage
        return [*storage.names(directory), *storage.directories(directory)]
