"""The output directory of a training run: its file names, and which request its files belong to.

`OUTPUT/` becomes the model; `OUTPUT/_tirazh/` holds its `finetune.json` (the request), `losses.jsonl`,
`losses.svg` and `manifest.json`. Until the model is written, everything of a training is in
`OUTPUT/_tirazh/trainings/<first 8 hex digits of its id>/` (`work_folder.py`): two trainings share no
file, and a model that the directory holds already stays complete until another one replaces it.
An output in an object store has a directory on a disk to work in (`remote/output.py`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tirazh.errors import OutputError
from tirazh.model.training.config import Fence
from tirazh.model.training.log import read_log
from tirazh.pipeline.finetune.identity import find_differences, training_id
from tirazh.pipeline.finetune.work_folder import FORMAT, WorkFolder
from tirazh.pipeline.output.leases.fence import LeaseToken
from tirazh.pipeline.output.leases.record import parse
from tirazh.pipeline.output.names import LEASES, OWN

# Beside the model: its card, and the directory of the LoRA adapter in peft's format.
CARD = "README.md"
ADAPTER = "adapter"


@dataclass(frozen=True, slots=True)
class TrainingOutput:
    """One output directory, on a disk that every worker can access."""

    folder: Path

    @property
    def shown(self) -> str:
        """The name of the output for people."""
        return str(self.folder)

    @property
    def own(self) -> Path:
        return self.folder / OWN

    @property
    def config(self) -> Path:
        """The last file of an exported model: a directory without it is no model."""
        return self.folder / "config.json"

    @property
    def last_files(self) -> tuple[Path, ...]:
        """The files that are written last: of a model, and of an adapter, which may be there without the model."""
        return self.config, self.folder / ADAPTER / "adapter_config.json"

    @property
    def is_exported(self) -> bool:
        """Whether the directory holds what a training ends with: a model, an adapter, or both."""
        return any(self._has(*self._names_of(path)) for path in self.last_files)

    @property
    def request(self) -> Path:
        return self.own / "finetune.json"

    @property
    def log(self) -> Path:
        return self.own / "losses.jsonl"

    @property
    def plot(self) -> Path:
        return self.own / "losses.svg"

    @property
    def manifest(self) -> Path:
        return self.own / "manifest.json"

    @property
    def trainings(self) -> Path:
        """The directory of the trainings whose model is not written yet."""
        return self.own / "trainings"

    @property
    def checkpoints(self) -> Path:
        """The directory of the last checkpoint of the model's training, where it was kept (--keep-last-checkpoint)."""
        return self.own / "checkpoints"

    def requests(self) -> list[dict[str, Any]]:
        """Return the stored requests: that of the model first, then those of trainings without one."""
        exported = self._read_request(*self._names_of(self.request))
        return ([] if exported is None else [exported]) + self._started()

    def work(self, training: str) -> WorkFolder:
        """Return the files of the training with this id."""
        return WorkFolder(self.trainings / training[:8])

    def find_request(
        self, identity: Mapping[str, Any], *, overwrite: bool, is_successor: bool = False
    ) -> dict[str, Any] | None:
        """Read the stored request of this training, None when it has not started. Changes nothing.

        Raises OutputError when the directory holds another training (unless `overwrite`) or files
        of other origin. `is_successor` is for a training that continues from one in this directory: others that are not
        complete may lie beside it.
        """
        exported = self._read_request(*self._names_of(self.request))
        if exported is not None and self.is_exported and not find_differences(exported["identity"], identity):
            return exported
        started = self._started()
        if exported is None and not started:
            self._refuse_other_files()
            return None
        own = [request for request in started if not find_differences(request["identity"], identity)]
        beside = [] if is_successor else started
        others = [request for request in (exported, *beside) if request is not None and request not in own]
        different = [text for each in others if (text := find_differences(each["identity"], identity))]
        if different and not overwrite:
            raise OutputError(
                f"{self.shown} holds another training run: {different[0]}; give --overwrite to replace it, or "
                "another --output"
            )
        return own[0] if own else None

    def read_manifest(self, request: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """Read the manifest of the training with this request; None when its model is not written."""
        names = self._names_of(self.manifest)
        if request is None or not (self._has(*names) and self.is_exported):
            return None
        found = self._read_json(*names) or {}
        return found if found.get("training") == request["training"] else None

    def write_request(self, values: Mapping[str, Any]) -> None:
        """Write the request of a training. From now on the same request resumes it."""
        self.work(values["training"]).write_request(values)

    def read_log(self, training: str) -> list[dict[str, Any]]:
        """Return the log of a training that has no model yet."""
        return read_log(self.work(training).log)

    def worker_fence(self, token: LeaseToken) -> Fence:
        """Return what the workers check before they write."""
        return token

    def bring_checkpoints(self, training: str, *, keeps_best: bool, tell: Callable[[str], None] | None = None) -> None:
        """Bring the checkpoints of a training to the disk; here they are on it."""

    def uploading(
        self, training: str, token: LeaseToken, *, run: str, keeps_best: bool
    ) -> AbstractContextManager[object]:
        """Inside the block new checkpoints are uploaded; here they stay where the workers write them."""
        return nullcontext()

    def keep_checkpoint(self, checkpoint: Path | None) -> None:
        """Move a checkpoint out of the work files, in place of that of the model before; None only removes that."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        if checkpoint is not None:
            self.checkpoints.mkdir()
            checkpoint.rename(self.checkpoints / checkpoint.name)

    def remove_work_files(self) -> None:
        """Remove what only running and resumed trainings need: data, checkpoints, Ray Train's files."""
        shutil.rmtree(self.trainings, ignore_errors=True)

    def remove_unstarted(self) -> None:
        """Remove the files of trainings without a request: they were refused or killed at their start."""
        for path in self.trainings.iterdir() if self.trainings.is_dir() else ():
            if not self._has(*self._names_of(WorkFolder(path).request)):
                shutil.rmtree(path, ignore_errors=True)

    def remove_if_empty(self) -> None:
        """Remove the directories of a run that was refused, if they hold nothing but its released lease."""
        _remove_empty(self.trainings)
        leases = self.own / LEASES
        files = list(leases.iterdir()) if leases.is_dir() else []
        if len(files) == 1 and [path.name for path in self.own.iterdir()] == [LEASES]:
            record = parse(files[0].read_bytes())
            if record is not None and record.released:
                files[0].unlink()
        for folder in (leases, self.own, self.folder):
            _remove_empty(folder)

    def _started(self) -> list[dict[str, Any]]:
        """The requests of the trainings whose model is not written, sorted by their directories' names."""
        own = self._names_of(self.trainings)
        found = [
            self._read_request(*own, name, *self._names_of(WorkFolder(self.folder).request))
            for name in sorted(self._list(*own))
        ]
        return [request for request in found if request is not None]

    def _read_request(self, *names: str) -> dict[str, Any] | None:
        values = self._read_json(*names)
        if values is not None and (values.get("format") != FORMAT or values.get("training") != training_id(values)):
            raise OutputError(
                f"{'/'.join((self.shown, *names))} is damaged or of another version of tirazh; remove {self.shown}"
            )
        return values

    def _read_json(self, *names: str) -> dict[str, Any] | None:
        """The values of a file; None when there is none. Raises OutputError for one that is damaged."""
        try:
            data = self._read(*names)
            values = None if data is None else json.loads(data.decode("utf-8"))
        except (OSError, ValueError) as error:
            raise OutputError(f"{'/'.join((self.shown, *names))} is damaged ({error}); remove it") from error
        return values if values is None or isinstance(values, dict) else {}

    def _refuse_other_files(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise OutputError(f"{self.folder} is a file; give a directory as --output")
        unknown = sorted(name for name in self._list() if name != OWN and not name.startswith("."))
        if unknown or self._has(OWN, "plan.json"):
            what = unknown[0] if unknown else "another job's plan"
            raise OutputError(f"{self.shown} holds files of other origin ({what}); give another --output")

    def _names_of(self, path: Path) -> tuple[str, ...]:
        """The names that lead from the output to one of its files."""
        return path.relative_to(self.folder).parts

    def _has(self, *names: str) -> bool:
        """Whether the output has this file."""
        return self.folder.joinpath(*names).is_file()

    def _read(self, *names: str) -> bytes | None:
        """The content of a file of the output; None when there is none."""
        return self.folder.joinpath(*names).read_bytes() if self._has(*names) else None

    def _list(self, *names: str) -> list[str]:
        """The names of files and directories in a directory of the output."""
        folder = self.folder.joinpath(*names)
        return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # it does not exist, or it holds files
        folder.rmdir()
