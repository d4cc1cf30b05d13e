"""Every name in a training's output directory, and whose work lies there.

`OUTPUT/` is the model, once it is there; `OUTPUT/_tirazh/` holds what it was made with: `finetune.json` (the request),
`data/` (sequences), `checkpoints/`, `losses.jsonl`, `losses.svg`, `manifest.json`.
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
from tirazh.pipeline.output.names import LEASE, OWN
from tirazh.pipeline.settings import flag_name

FORMAT = 1


@dataclass(frozen=True, slots=True)
class TrainingOutput:
    """One output directory, on a disk that every worker sees."""

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
        """Sequences: `train`, `eval` or `labels`."""
        return self.own / "data" / name

    def find(self, identity: Mapping[str, Any], *, overwrite: bool) -> dict[str, Any] | None:
        """What this training was begun with, or None where none was. Only looks. Raises OutputError when the directory
        holds another one's work (unless `overwrite`) or files that are not ours."""
        begun = self._read_request()
        if begun is None:
            self._refuse_foreign()
            return None
        other = _differences(begun["identity"], identity)
        if not other:
            return begun
        if not overwrite:
            raise OutputError(
                f"{self.folder} holds another training: {other}; give --overwrite to remove it first, or another "
                "--output"
            )
        return None

    def read_manifest(self) -> dict[str, Any] | None:
        """The manifest of a training that came to its end."""
        found = _read_json(self.manifest) if self.manifest.is_file() else None
        return found if (self.folder / "config.json").is_file() else None

    def begin(self, values: Mapping[str, Any]) -> None:
        """Write down what the training is; from here on it is resumed."""
        self._write(self.request, {"format": FORMAT} | dict(values))

    def end(self, manifest: Mapping[str, Any]) -> None:
        self._write(self.manifest, manifest)

    def tidy(self) -> None:
        """Remove what only a training that goes on needs: its data, its checkpoints, Ray Train's notes."""
        self.stop_request.unlink(missing_ok=True)
        for folder in (self.own / "data", self.checkpoints, self.ray_train):
            shutil.rmtree(folder, ignore_errors=True)

    def clear(self) -> None:
        """Remove everything of ours but the lease; config.json first, so that no half of a model is taken for one."""
        names = ["config.json", *TOKENIZER_FILES, "model.safetensors.index.json"]
        for path in (*(self.folder / name for name in names), *self.folder.glob("model*.safetensors*")):
            path.unlink(missing_ok=True)
        for path in self.own.iterdir() if self.own.is_dir() else ():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LEASE:
                path.unlink()

    def remove_if_empty(self) -> None:
        """Leave nothing of a training that was refused."""
        shutil.rmtree(self.own / "data", ignore_errors=True)
        for folder in (self.own, self.folder):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def _read_request(self) -> dict[str, Any] | None:
        if not self.request.is_file():
            return None
        values = _read_json(self.request)
        if values.get("format") != FORMAT or not isinstance(values.get("identity"), dict):
            raise OutputError(f"{self.request} is damaged, or another version of tirazh wrote it; remove {self.folder}")
        return values

    def _refuse_foreign(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise OutputError(f"{self.folder} is a file; give --output the name of a directory")
        found = sorted(path.name for path in self.folder.iterdir()) if self.folder.is_dir() else []
        strange = [name for name in found if name != OWN and not name.startswith(".")]
        if strange or (self.own / "plan.json").exists():
            what = strange[0] if strange else "another job's plan"
            raise OutputError(f"{self.folder} holds something that no training made ({what}); give another --output")

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


def _differences(begun: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """How a request is another one, in words; empty when it is the same."""
    # As JSON has it: what was written down has lists for tuples.
    now = json.loads(json.dumps(now))
    other = [name for name in sorted({*begun, *now}) if begun.get(name) != now.get(name)]
    if not other:
        return ""
    if other == ["model_fingerprint"]:
        return "the model has other weights now"
    if other == ["files"]:
        return "the input has changed since it began"
    flags = [flag_name(name) for name in other if name not in ("model_fingerprint", "files", "kind")]
    return f"{', '.join(flags)} {'is' if len(flags) == 1 else 'are'} not what that one had"
