"""What all formats share: JSON files, safetensors files, and Hugging Face's names of weight files.

Anything wrong with a file becomes one CheckpointError that names the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from tirazh.errors import CheckpointError
from tirazh.model.checkpoints.pickles import open_pickle
from tirazh.model.checkpoints.tensors import Bounds, StoredTensor

if TYPE_CHECKING:
    from torch import Tensor

SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
INDEX_FILES = tuple(f"{name}.index.json" for name in SINGLE_FILES)
_MAX_JSON_BYTES = 256 << 20  # far above any real one: the index of a large model has a few MiB
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises CheckpointError when the file is missing, not JSON or not an object.
    """
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise CheckpointError(
                f"{path} is larger than {_MAX_JSON_BYTES >> 20} MiB, too large for a JSON file of a model"
            )
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"no file {path}") from None
    except CheckpointError:
        raise
    except RecursionError:
        raise CheckpointError(f"{path} is not readable JSON: it is nested too deep") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} must hold a JSON object, not a {type(values).__name__}")
    return values


def whole_number(values: Mapping[str, Any], key: str, path: Path) -> int:
    """Return `values[key]`, an int of at least 1. Raises CheckpointError."""
    value = values.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        found = "is missing" if value is None else f"is {value!r}"
        raise CheckpointError(f"{path}: {key} must be a whole number of at least 1, but it {found}")
    return value


def positive_number(values: Mapping[str, Any], key: str, default: float, path: Path) -> float:
    """Return `values[key]`, or `default`, as a finite float above 0. Raises CheckpointError."""
    value = values.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e30:
        raise CheckpointError(f"{path}: {key} must be a number above 0, but it is {str(value)[:40]!r}")
    return float(value)


def has_weights(folder: Path) -> bool:
    """Return whether the directory holds weights under one of Hugging Face's file names."""
    return any((folder / name).is_file() for name in (*SINGLE_FILES, *INDEX_FILES))


def open_weights(folder: Path) -> tuple[dict[str, StoredTensor], tuple[Path, ...]]:
    """Open the weights of a directory with Hugging Face's file names.

    Returns the tensors by name, and the files. Prefers safetensors to pickles, and an index to a
    single file. Raises CheckpointError.
    """
    for single, index in zip(SINGLE_FILES, INDEX_FILES, strict=True):
        if (folder / index).is_file():
            return _open_indexed(folder, folder / index)
        if (folder / single).is_file():
            return _open_file(folder / single), (folder / single,)
    raise CheckpointError(f"no weights in {folder}; looked for {', '.join((*SINGLE_FILES, *INDEX_FILES))}")


def _open_indexed(folder: Path, index: Path) -> tuple[dict[str, StoredTensor], tuple[Path, ...]]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map, so it does not say which file holds which tensor")
    files = {name: folder / _inside(name, index) for name in sorted(set(map(str, weight_map.values())))}
    opened = {name: _open_file(path) for name, path in files.items()}
    for tensor, name in weight_map.items():
        if tensor not in opened[str(name)]:
            raise CheckpointError(f"{index} says that {name} holds the tensor {tensor}, but it does not")
    stored = {tensor: opened[str(name)][tensor] for tensor, name in weight_map.items()}
    return stored, tuple(files.values())


def _inside(name: str, index: Path) -> str:
    """Return `name` if it is a plain file name: an untrusted index must not leave its directory."""
    if PurePosixPath(name).name != name or "\\" in name or name in {"", ".", ".."}:
        raise CheckpointError(f"{index} names the file {name!r}; only files of the same directory are opened")
    return name


def _open_file(path: Path) -> dict[str, StoredTensor]:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing, though the index beside it lists it; copy the checkpoint again")
    return open_safetensors(path) if path.suffix == ".safetensors" else open_pickle(path).tensors


def open_safetensors(path: Path) -> dict[str, StoredTensor]:
    """Open the tensors of one safetensors file; only its header is read. Raises CheckpointError."""
    try:
        with safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}
            return {
                name: _stored(path, name, tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()
            }
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or damaged ({error}); copy it again") from error


def _stored(path: Path, name: str, shape: tuple[int, ...], code: str) -> StoredTensor:
    def read_box(box: Bounds) -> Tensor:
        # Opened for every read: an open handle would keep the file mapped, and opening takes
        # microseconds.
        with safe_open(path, framework="pt") as file:
            part: Tensor = file.get_slice(name)[tuple(slice(*bounds) for bounds in box)]
            return part

    return StoredTensor(file=path, name=name, shape=shape, dtype=_DTYPES.get(code, code), read_box=read_box)
