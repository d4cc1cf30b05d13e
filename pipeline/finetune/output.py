"""The output directory of a training run: its file names, and which request its files belong to.

`OUTPUT/` becomes the model; `OUTPUT/_tirazh/` holds `finetune.json` (the request), `data/`
(sequences), `checkpoints/`, `losses.jsonl`, `losses.svg` and `manifest.json`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tirazh.errors import OutputError
from tirazh.model.tokenizer import TOKENIZER_FILES
from tirazh.pipeline.output.names import LEASES, OWN
from tirazh.pipeline.settings import describe_changed

FORMAT = 1


@dataclass(frozen=True, slots=True)
class TrainingOutput:
    """One output directory, on a disk that every worker can access."""

    folder: Path

    @property
    def own(self) -> Path:
        return self.folder / OWN

    @property
    def request(self) -> Path:
        return self.own / "finetune.json"

    @property
    def checkpoints(self) -> Path:
        return self.own / "checkpoints"

    @property
    def log(self) -> Path:
        return self.own / "losses.jsonl"

    @property
    def stop_request(self) -> Path:
        return self.own / "stop"

    @property
    def plot(self) -> Path:
        return self.own / "losses.svg"

    @property
    def manifest(self) -> Path:
        return self.own / "manifest.json"

    @property
    def ray_train(self) -> Path:
        return self.own / "ray-train"

    def data(self, name: str) -> Path:
        """Return the directory of the sequences `train`, `eval` or `labels`."""
        return self.own / "data" / name

    def find_request(self, identity: Mapping[str, Any], *, overwrite: bool) -> dict[str, Any] | None:
        """Read the request of this training run, None when it has not started. Changes nothing.

        Raises OutputError when the directory holds another run's files (unless `overwrite`) or
        files of other origin.
        """
        request = self._read_request()
        if request is None:
            self._refuse_other_files()
            return None
        differences = _differences(request["identity"], identity)
        if not differences:
            return request
        if not overwrite:
            raise OutputError(
                f"{self.folder} holds another training run: {differences}; give --overwrite to remove it first, or "
                "another --output"
            )
        return None

    def read_manifest(self) -> dict[str, Any] | None:
        """Read the manifest of a completed training run; None when it is not complete."""
        found = _read_json(self.manifest) if self.manifest.is_file() else None
        # config.json is the last file of an exported model.
        return found if (self.folder / "config.json").is_file() else None

    def write_request(self, values: Mapping[str, Any]) -> None:
        """Write the request. From now on the same request resumes the run."""
        self._write(self.request, {"format": FORMAT} | dict(values))

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        self._write(self.manifest, manifest)

    def remove_work_files(self) -> None:
        """Remove what only a running or resumed training needs: its data, its checkpoints, Ray Train's files."""
        self.stop_request.unlink(missing_ok=True)
        for folder in (self.own / "data", self.checkpoints, self.ray_train):
            shutil.rmtree(folder, ignore_errors=True)

    def clear(self) -> None:
        """Remove tirazh's files but the lease; config.json first, so that no partial model is ever valid."""
        names = ["config.json", *TOKENIZER_FILES, "model.safetensors.index.json"]
        for path in (*(self.folder / name for name in names), *self.folder.glob("model*.safetensors*")):
            path.unlink(missing_ok=True)
        for path in self.own.iterdir() if self.own.is_dir() else ():
            if path.name == LEASES:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def remove_if_empty(self) -> None:
        """Remove the directories of a run that was refused, if they are empty."""
        shutil.rmtree(self.own / "data", ignore_errors=True)
        for folder in (self.own, self.folder):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def _read_request(self) -> dict[str, Any] | None:
        if not self.request.is_file():
            return None
        values = _read_json(self.request)
        if values.get("format") != FORMAT or not isinstance(values.get("identity"), dict):
            raise OutputError(f"{self.request} is damaged or of another version of tirazh; remove {self.folder}")
        return values

    def _refuse_other_files(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise OutputError(f"{self.folder} is a file; give a directory as --output")
        found = sorted(path.name for path in self.folder.iterdir()) if self.folder.is_dir() else []
        unknown = [name for name in found if name != OWN and not name.startswith(".")]
        if unknown or (self.own / "plan.json").exists():
            what = unknown[0] if unknown else "another job's plan"
            raise OutputError(f"{self.folder} holds files of other origin ({what}); give another --output")

    def _write(self, path: Path, values: Mapping[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(json.dumps(values, ensure_ascii=False, indent=1), encoding="utf-8")
        partial.rename(path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} is damaged ({error}); remove it") from error
    return values if isinstance(values, dict) else {}


def _differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Describe how two requests differ; an empty string when they are equal."""
    now = json.loads(json.dumps(now))  # the saved request was JSON, which has lists for tuples
    other = [name for name in sorted({*saved, *now}) if saved.get(name) != now.get(name)]
    if not other:
        return ""
    if other == ["model_fingerprint"]:
        return "the model has other weights now"
    if other == ["files"]:
        return "the input files have changed since it started"
    return describe_changed([name for name in other if name not in ("model_fingerprint", "files", "kind")])
