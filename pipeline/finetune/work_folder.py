"""The files of one training until its model is written, in a directory of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tirazh.pipeline.storage.disk import write_disk

FORMAT = 2


@dataclass(frozen=True, slots=True)
class WorkFolder:
    """`OUTPUT/_tirazh/trainings/<8 hex digits>/`. Nothing in it belongs to another training.

    Files that a run writes in place have the run's name in theirs: the run that was taken over may
    still write.
    """

    folder: Path

    @property
    def request(self) -> Path:
        return self.folder / "finetune.json"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def log(self) -> Path:
        return self.folder / "losses.jsonl"

    @property
    def plot(self) -> Path:
        return self.folder / "losses.svg"

    @property
    def failures(self) -> Path:
        """What Ray Train said about workers that failed."""
        return self.folder / "failures.jsonl"

    @property
    def ray_train(self) -> Path:
        return self.folder / "ray-train"

    @property
    def data(self) -> Path:
        """The directory of the sequences to train on, once it is complete."""
        return self.folder / "data"

    @property
    def start(self) -> Path:
        """The directory of the checkpoint of another training, where that was fetched from a store."""
        return self.folder / "start"

    def of_run(self, name: str, run: str) -> Path:
        """Return the path `name` of one run: `stop`, `export`, or sequences that it writes."""
        return self.folder / "runs" / run / name

    def write_request(self, values: Mapping[str, Any]) -> None:
        """Write the request. From now on the same request resumes the training."""
        write_json(self.request, {"format": FORMAT} | dict(values))

    def publish_data(self, written: Path) -> None:
        """Give sequences that a run has written their final name; existing ones are equal, and are replaced."""
        shutil.rmtree(self.data, ignore_errors=True)
        written.rename(self.data)

    def remove_runs(self, *, but: str) -> None:
        """Remove the files of earlier runs."""
        runs = self.folder / "runs"
        for path in runs.iterdir() if runs.is_dir() else ():
            if path.name != but:
                shutil.rmtree(path, ignore_errors=True)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write JSON atomically and sync it to disk. Raises OSError."""
    write_disk(str(path), json.dumps(values, ensure_ascii=False, indent=1).encode())
