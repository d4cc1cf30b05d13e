"""Uploads the checkpoints of a training while it runs, from the directory where its workers write them.

A thread of the driver looks for new ones: the training does not wait for the network. The store then holds the
checkpoints that the directory holds, the newest at most one upload behind. The driver holds the lease, so nothing
is written by two runs.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from tirazh.errors import CheckpointError, JobError, StorageError, TirazhError
from tirazh.model.training.checkpoint import TrainingCheckpoint, find_checkpoints
from tirazh.model.training.config import Fence
from tirazh.pipeline.finetune.remote.checkpoints import StoredCheckpoints
from tirazh.pipeline.finetune.work_folder import WorkFolder
from tirazh.pipeline.storage.filesystem import join

logger = logging.getLogger(__name__)

_POLL_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Mirrored:
    """What is uploaded: the checkpoints in `work` to `stored`, and beside them the log and its plot, in `folder`.

    `run` names the objects of this run. With `keeps_best` every checkpoint counts, else the newest alone. `note` is
    called with the step of a checkpoint that is complete in the store.
    """

    work: WorkFolder
    stored: StoredCheckpoints
    folder: str
    fence: Fence
    run: str
    keeps_best: bool
    note: Callable[[int], None]


class CheckpointMirror:
    """Uploads in a thread of its own. A context manager, which uploads what is left at its end.

    When the store refuses for minutes, or for good, the workers are asked to stop after their step, with a checkpoint
    on the disk; leaving the block then raises JobError that names it.
    """

    def __init__(self, mirrored: Mirrored, stop_request: Path) -> None:
        self._mirrored = mirrored
        self._stop_request = stop_request
        self._known = mirrored.stored.find()
        self._failure: TirazhError | None = None
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="tirazh-upload", daemon=True)
        if self._known:
            mirrored.note(self._known[-1].step)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_stopping.set()
        self._thread.join()
        if self._failure is None:
            try:
                self.upload_new(is_last=True)
                self._upload_curves()
            except TirazhError as failure:
                self._failure = failure
        if self._failure is None:
            return
        problem = self._explained(self._failure)
        if error is None:
            raise problem from self._failure
        logger.warning("%s", problem)  # of the two, what ended the training is told

    def upload_new(self, *, is_last: bool = False) -> None:
        """Upload the newest checkpoint, and remove those in the store that the disk has no more.

        With `is_last` all are uploaded: a training that its loss has stopped is continued from one before the newest.
        """
        mirrored = self._mirrored
        local = find_checkpoints(mirrored.work.checkpoints, mirrored.stored.training)
        steps = {each.step for each in self._known}
        # The best evaluation is named by the log of a newer checkpoint, so the older ones come first.
        wanted = local if mirrored.keeps_best or is_last else local[-1:]
        new = [each for each in wanted if each.step not in steps]
        for checkpoint in new:
            linked = self._linked(checkpoint)
            try:
                if linked is not None:
                    uploaded = mirrored.stored.upload(linked, mirrored.work.log, mirrored.fence, run=mirrored.run)
                    self._known = sorted([*self._known, uploaded], key=lambda each: each.step)
                    mirrored.note(self._known[-1].step)
            finally:
                shutil.rmtree(self._links, ignore_errors=True)
        if new and self._known:
            kept = {each.step for each in local} | {self._known[-1].step}
            self._known = [each for each in self._known if each.step in kept]
            mirrored.stored.remove_others(self._known, mirrored.fence)
            self._upload_curves()

    @property
    def _links(self) -> Path:
        return self._mirrored.work.of_run("upload", self._mirrored.run)

    def _linked(self, checkpoint: TrainingCheckpoint) -> TrainingCheckpoint | None:
        """Links to the files of a checkpoint, which stay when the training removes it; None if it is gone."""
        folder = self._links / checkpoint.folder.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            for path in checkpoint.folder.iterdir():
                _link(path, folder / path.name)
        except FileNotFoundError:
            return None
        # While links were made it may have lost files.
        is_whole = checkpoint.folder.is_dir() and (folder / "state.json").is_file()
        return TrainingCheckpoint(folder, checkpoint.step) if is_whole else None

    def _upload_curves(self) -> None:
        """Bring the log and its plot beside the checkpoints, for those who look."""
        mirrored = self._mirrored
        storage = mirrored.stored.storage
        for path in (mirrored.work.log, mirrored.work.plot):
            with suppress(FileNotFoundError):
                data = path.read_bytes()
                mirrored.fence.guard(partial(storage.write, join(mirrored.folder, path.name), data))

    def _follow(self) -> None:
        while not self._is_stopping.wait(_POLL_S):
            try:
                self.upload_new()
            except (CheckpointError, FileNotFoundError):  # the training removes one at this moment
                continue
            except (TirazhError, OSError) as error:
                self._failure = error if isinstance(error, TirazhError) else JobError(str(error))
                self._ask_to_stop()
                return

    def _ask_to_stop(self) -> None:
        """Ask the workers to end after their step, with a checkpoint on the disk, also those that start only now."""
        while not self._is_stopping.wait(_POLL_S):
            with suppress(OSError):
                self._stop_request.parent.mkdir(parents=True, exist_ok=True)
                self._stop_request.touch()

    def _explained(self, error: TirazhError) -> JobError:
        if isinstance(error, JobError) and not isinstance(error, StorageError):
            return error  # this run has lost its output
        work = self._mirrored.work
        local: list[TrainingCheckpoint] = []
        with suppress(CheckpointError):
            local = find_checkpoints(work.checkpoints, self._mirrored.stored.training)
        where = f"; its checkpoint of step {local[-1].step:,} is in {local[-1].folder}" if local else ""
        return JobError(
            f"the checkpoints cannot be uploaded: {error}; the training was stopped{where}, and the same command on "
            "this machine goes on from it"
        )


def _link(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except FileNotFoundError:
        raise
    except OSError:  # a file system without links
        shutil.copyfile(path, target)
