"""What a model in an object store consists of, and what the cache knows about its own copies of the files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tirazh.errors import CheckpointError, InputError
from tirazh.pipeline.storage.disk import StoredFile
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage

# Names of files that hold weights. A machine without replicas needs the others alone, for its tokenizer.
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".gguf", ".ot", ".npz")


@dataclass(frozen=True, slots=True)
class RemoteIndex:
    """The files of a model in an object store. `names` are their paths below it, in the order of `files`."""

    uri: str
    files: tuple[StoredFile, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(file.uri.removeprefix(f"{self.uri}/") for file in self.files)

    @property
    def key(self) -> str:
        """The name of the model in the cache: another one as soon as a file has another size or version."""
        files = [(name, file.size, file.version) for name, file in zip(self.names, self.files, strict=True)]
        return hashlib.sha256(json.dumps([self.uri, *files]).encode()).hexdigest()[:20]


@dataclass(frozen=True, kw_only=True, slots=True)
class CachedFile:
    """A copy in the cache: its size in bytes, the SHA-256 of its content, and the times by which a change shows."""

    size: int
    sha256: str
    mtime_ns: int
    ctime_ns: int
    checked_s: float


def list_remote(uri: str, storage: Storage) -> RemoteIndex:
    """List the files of a model. Raises CheckpointError if there are none, StorageError if the store refuses."""
    try:
        found = storage.walk(uri)
    except InputError as error:
        raise CheckpointError(f"there is no model at {show_uri(uri)}: {error}") from error
    files = tuple(sorted((file for file in found if file.uri != uri), key=lambda file: file.uri))
    if not files:
        raise CheckpointError(f"{show_uri(uri)} is one file; give the directory that holds the model")
    return RemoteIndex(uri, files)


def holds_weights(name: str) -> bool:
    """Whether a file of this name holds weights."""
    return name.endswith(_WEIGHTS)


def to_text(uri: str, files: Mapping[str, CachedFile]) -> str:
    """The record of a model in the cache, as JSON with a checksum."""
    values: dict[str, Any] = {"uri": uri, "files": {name: asdict(file) for name, file in sorted(files.items())}}
    return json.dumps(values | {"content_sha256": _digest(values)}, indent=1)


def from_text(text: str) -> dict[str, CachedFile]:
    """The files of such a record. Empty for one that is damaged: its files are then fetched again."""
    try:
        values = json.loads(text)
        seal = values.pop("content_sha256")
        if seal != _digest(values):
            return {}
        return {name: CachedFile(**file) for name, file in values["files"].items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
