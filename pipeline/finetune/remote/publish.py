"""Replaces the model in an object store by the one of a completed training.

The new model is uploaded beside the old one first, into the files of its training. Then the order is that of
`publish.py`: `config.json` is removed, every other file takes its place by a copy inside the store, and the new
`config.json` comes last. A run that is killed in between is completed by the same command.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from tirazh.model.training.checkpoint import TrainingCheckpoint
from tirazh.model.training.config import Fence
from tirazh.pipeline.finetune.output import ADAPTER
from tirazh.pipeline.finetune.publish import MODEL_FILES, Result
from tirazh.pipeline.finetune.remote.output import StoredOutput
from tirazh.pipeline.finetune.work_folder import FORMAT
from tirazh.pipeline.storage.filesystem import join


def publish_stored(output: StoredOutput, result: Result, fence: Fence, *, run: str) -> None:
    """Replace the model in the store. Raises JobError when the fence is lost, which is checked before every change,
    and StorageError or OutputError when the store refuses: then nothing is lost, and the same command completes it."""
    storage, exported = output.files.storage, result.exported
    names = sorted(str(path.relative_to(exported)) for path in exported.rglob("*") if path.is_file())
    last = [str(path.relative_to(output.folder)) for path in output.last_files]
    moved = [name for name in names if name not in last]
    staged = output.uri(*output.work(result.request["training"]).folder.relative_to(output.folder).parts, "model", run)
    request = {"format": FORMAT} | dict(result.request)

    def write(name: str, data: bytes) -> Callable[[], None]:
        return partial(storage.write, output.files.own(name), data)

    changes: list[Callable[[], None]] = [
        *(partial(storage.upload, str(exported / name), join(staged, name)) for name in names),
        *(partial(storage.remove, output.uri(name)) for name in last),
        *(partial(storage.move, join(staged, name), output.uri(name)) for name in moved),
        lambda: _remove_others(output, but=moved),
        write(output.request.name, _json(request)),
        write(output.log.name, result.log),
        write(output.plot.name, result.plot.encode()),
        *(partial(storage.move, join(staged, name), output.uri(name)) for name in last if name in names),
        # After both: a run that is killed between them is not complete, and exports again.
        write(output.manifest.name, _json(dict(result.manifest))),
        partial(storage.remove, output.files.own(output.checkpoints.name), recursive=True),
    ]
    for change in changes:
        fence.guard(change)
    if result.kept is not None:
        _keep(output, result, result.kept, fence, run=run)
    fence.guard(partial(storage.remove, output.files.own(output.trainings.name), recursive=True))
    output.remove_work_files()


def _keep(output: StoredOutput, result: Result, kept: Path, fence: Fence, *, run: str) -> None:
    """Upload the last checkpoint to the place from which a longer training starts."""
    checkpoint = TrainingCheckpoint(kept, int(kept.name.split("-")[1]))
    training = result.request["training"]
    output.stored_kept(training).upload(checkpoint, output.work(training).log, fence, run=run)


def _remove_others(output: StoredOutput, *, but: Sequence[str]) -> None:
    """Remove the files of the old model that the new one does not have."""
    storage = output.files.storage
    found = [*storage.names(output.uri()), *(f"{ADAPTER}/{name}" for name in storage.names(output.uri(ADAPTER)))]
    for name in found:
        if name not in but and any(fnmatchcase(name, pattern) for pattern in MODEL_FILES):
            storage.remove(output.uri(name))


def _json(values: object) -> bytes:
    return json.dumps(values, ensure_ascii=False, indent=1).encode()
