"""What all formats share: JSON files, safetensors files, and Hugging Face's names of weight files.

Anything wrong with a file becomes one CheckpointError that names the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from tirazh.errors import CheckpointError
from tirazh.model.checkpoints.pickles import open_pickle
from tirazh.model.checkpoints.tensors import Bounds, StoredTensor, same_values, whole

if TYPE_CHECKING:
    from torch import Tensor

SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
# In the order in which transformers takes them.
WEIGHT_FILES = tuple(name for single in SINGLE_FILES for name in (single, f"{single}.index.json"))
_SHARD = re.compile(r"(model|pytorch_model)-\d+-of-\d+\.(safetensors|bin)")
_SHOWN = 3
_LFS_POINTER = b"version https://git-lfs"
_MAX_JSON_BYTES = 32 << 20  # far above any real one: the index of a large model has a few MiB
_BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "UTF-8", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
# Weights that are not read, by patterns of their names, and what to do.
_OTHER_WEIGHTS = {
    r".+\.gguf": "a file of llama.cpp; give the original Hugging Face directory",
    _SHARD.pattern: "but no index that says which file holds which tensor; copy the index too",
    r".+\.(safetensors|bin|pt|pth)": "a name that is not looked for; rename it if it holds the whole model",
    r".+\.(h5|msgpack|onnx|ot|npz)": "a format that is not read; save the model as safetensors",
}
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises CheckpointError when the file is missing, not JSON or not an object, names a key twice with
    different values, or holds a NaN or an infinity.
    """
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise CheckpointError(
                f"{path} is larger than {_MAX_JSON_BYTES >> 20} MiB, too large for a JSON file of a model"
            )
        check_encoding(path)
        text = path.read_text(encoding="utf-8")
        values = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise CheckpointError(f"no file {path}") from None
    except CheckpointError:
        raise
    except RecursionError:
        raise CheckpointError(f"{path} is not readable JSON: it is nested too deep") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {str(error)[:200]}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} must hold a JSON object, not a {type(values).__name__}")
    return values


def check_encoding(path: Path) -> None:
    """Raise CheckpointError for a text file that begins with a byte order mark, as Windows editors write it.

    transformers and the tokenizers library refuse such files, or take the mark as text.
    """
    with path.open("rb") as file:
        start = file.read(4)
    name = next((name for mark, name in _BYTE_ORDER_MARKS.items() if start.startswith(mark)), None)
    if name is not None:
        raise CheckpointError(
            f"{path} begins with a byte order mark ({name}), which no reader of models accepts; save it as UTF-8 "
            "without BOM"
        )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        for key, value in pairs:
            if values[key] != value:
                raise ValueError(f"it gives {key[:60]!r} twice, with different values")
    return values


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it holds {name}, which is not JSON and not a value of a model")


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
    return any((folder / name).is_file() for name in WEIGHT_FILES)


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of a directory with Hugging Face's file names.

    `stored` are the tensors by name, `files` hold them. `notices` say which other weights of the directory
    were not read.
    """

    stored: dict[str, StoredTensor]
    files: tuple[Path, ...]
    notices: tuple[str, ...]


def open_weights(folder: Path) -> Weights:
    """Open the weights of a directory with Hugging Face's file names.

    The order of preference is that of transformers: safetensors before pickles, and a single file
    before an index. Raises CheckpointError.
    """
    chosen = next((name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if chosen is None:
        raise CheckpointError(f"no weights in {folder}; looked for {', '.join(WEIGHT_FILES)}{others_found(folder)}")
    files: tuple[Path, ...]
    if chosen in SINGLE_FILES:
        stored, files = _open_file(folder / chosen), (folder / chosen,)
    else:
        stored, files = _open_indexed(folder, folder / chosen)
    return Weights(stored, files, _unread(folder, chosen, files))


def others_found(folder: Path) -> str:
    """Return a clause about weights of other formats, or without their index; empty when there are none."""
    names = sorted(path.name for path in folder.iterdir())
    for pattern, hint in _OTHER_WEIGHTS.items():
        found = [name for name in names if re.fullmatch(pattern, name)]
        if found:
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            return f"; it holds {found[0]}{more}, {hint}"
    return ""


def _unread(folder: Path, chosen: str, files: tuple[Path, ...]) -> tuple[str, ...]:
    read = {chosen, *(file.name for file in files)}
    others = [name for name in WEIGHT_FILES if name not in read and (folder / name).is_file()]
    shards = (path.name for path in folder.iterdir() if _SHARD.fullmatch(path.name) and path.name not in read)
    others = others or sorted(shards)
    if not others:
        return ()
    shown = ", ".join(others[:_SHOWN]) + (f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else "")
    return (f"{folder}: the weights are read from {chosen}, as transformers does; {shown} beside it may differ",)


def _open_indexed(folder: Path, index: Path) -> tuple[dict[str, StoredTensor], tuple[Path, ...]]:
    """Open every tensor of the files that an index names, also those that it does not list."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map, so it does not say which file holds which tensor")
    files = {name: folder / _inside(name, index) for name in sorted(set(map(str, weight_map.values())))}
    opened = {name: _open_file(path) for name, path in files.items()}
    for tensor, name in weight_map.items():
        if tensor not in opened[str(name)]:
            raise CheckpointError(f"{index} says that {name} holds the tensor {tensor}, but it does not")
    stored: dict[str, StoredTensor] = {}
    for tensors in opened.values():
        for name, tensor in tensors.items():
            _refuse_conflict(name, stored.setdefault(name, tensor), tensor)
    return stored, tuple(files.values())


def _refuse_conflict(name: str, first: StoredTensor, second: StoredTensor) -> None:
    """Raise CheckpointError when two files hold different tensors of one name."""
    if first is not second and not (first.shape == second.shape == () or same_values(whole([first]), whole([second]))):
        raise CheckpointError(
            f"{first.file} and {second.file.name} beside it hold different tensors of the name {name}; remove the "
            "file that does not belong to the model"
        )


def _inside(name: str, index: Path) -> str:
    """Return `name` if it is a plain file name: an untrusted index must not leave its directory."""
    if PurePosixPath(name).name != name or "\\" in name or name in {"", ".", ".."}:
        raise CheckpointError(f"{index} names the file {name!r}; only files of the same directory are opened")
    return name


def _open_file(path: Path) -> dict[str, StoredTensor]:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing, though the index beside it lists it; copy the checkpoint again")
    refuse_pointer(path)
    return open_safetensors(path) if path.suffix == ".safetensors" else open_pickle(path).tensors


def refuse_pointer(path: Path) -> None:
    """Raise CheckpointError when a file is a pointer of Git LFS: the file itself was never downloaded."""
    with path.open("rb") as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise CheckpointError(
                f"{path} is a pointer of Git LFS, not the weights; run `git lfs pull` in the directory"
            )


def open_safetensors(path: Path) -> dict[str, StoredTensor]:
    """Open the tensors of one safetensors file; only its header is read. Raises CheckpointError."""
    try:
        with safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}
            return {
                name: _stored(path, name, tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()
            }
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or damaged ({str(error)[:200]}); copy it again") from error


def _stored(path: Path, name: str, shape: tuple[int, ...], code: str) -> StoredTensor:
    def read_box(box: Bounds) -> Tensor:
        # Opened for every read: an open handle would keep the file mapped, and opening takes
        # microseconds.
        with safe_open(path, framework="pt") as file:
            part: Tensor = file.get_slice(name)[tuple(slice(*bounds) for bounds in box)]
            return part

    return StoredTensor(file=path, name=name, shape=shape, dtype=_DTYPES.get(code, code), read_box=read_box)
