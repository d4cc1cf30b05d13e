"""State dicts in torch pickles: the weights by name, and the plain facts saved beside them.

Training scripts save bookkeeping beside the weights (argparse namespaces, numpy's random state, loss
scalers), which is ignored. Any other name in a pickle is code, and the file is refused: nothing of a
pickle is ever run (see `pickle_machine.py`). Imports no torch until a tensor is read.
"""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tirazh.errors import CheckpointError
from tirazh.model.checkpoints.pickle_machine import CodeFoundError, OtherTensor, TensorRef
from tirazh.model.checkpoints.tensors import StoredTensor
from tirazh.model.checkpoints.torch_file import TorchFile, open_torch_file

_DAMAGED = (
    *(RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError),
    *(MemoryError, OverflowError, struct.error, zipfile.BadZipFile),
)
# State dicts are flat, or nested like their modules; anything beyond these is an attack.
_MAX_DEPTH = 16
_MAX_ENTRIES = 500_000
_MAX_NAME = 500

_Tensors = Iterator[tuple[str, TensorRef | OtherTensor]]


@dataclass(frozen=True, slots=True)
class PickledFile:
    """The tensors by name, and the plain numbers and strings saved beside them."""

    tensors: dict[str, StoredTensor]
    facts: dict[str, int | float | str]


def open_pickle(path: Path) -> PickledFile:
    """Open the weights of a torch pickle; its tensors are mapped into memory where they are read.

    They are those under the key `module` or `model`, if there is one. Raises CheckpointError.
    """
    file = _open(path)
    values = file.value
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds a {_kind(values)}, not a dictionary of weights")
    named = [key for key in ("module", "model") if isinstance(values.get(key), dict)]
    if len(named) > 1:
        raise CheckpointError(f"{path} holds weights under `module` and under `model`; save it again with one of them")
    weights = values[named[0]] if named else values
    stored: dict[str, StoredTensor] = {}
    for name, tensor in _flatten(weights, path):
        if name in stored:
            raise CheckpointError(f"{path} holds the tensor {name} twice; save it again as a flat state dict")
        stored[name] = _stored(file, name, tensor)
    if not stored:
        raise CheckpointError(f"{path} holds no weights, neither at the top level nor under `module` or `model`")
    facts = {str(key): value for key, value in values.items() if isinstance(value, int | float | str)}
    return PickledFile(stored, facts)


def _open(path: Path) -> TorchFile:
    try:
        return open_torch_file(path)
    except CodeFoundError as error:
        raise CheckpointError(
            f"{path} contains code ({error}) and was refused; only plain tensors are read, so save it again as a "
            "state dict or as safetensors"
        ) from error
    except PermissionError:
        raise
    except _DAMAGED as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise CheckpointError(f"{path} is truncated or damaged ({reason[:200]}); copy it again") from error


def _kind(value: object) -> str:
    return "tensor" if isinstance(value, TensorRef | OtherTensor) else type(value).__name__


class _Walk:
    """How much of a state dict was visited, so that a small file cannot describe a large one."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.entries = 0


def _flatten(
    weights: Mapping[Any, Any], path: Path, prefix: str = "", depth: int = 0, walk: _Walk | None = None
) -> _Tensors:
    """Yield the tensors of a nested or flat state dict, without the `module.` prefixes of wrappers.

    Raises CheckpointError for nesting that is deep, shared or wide enough to be an attack.
    """
    walk = walk or _Walk()
    if depth > _MAX_DEPTH:
        raise CheckpointError(
            f"{path} nests its weights more than {_MAX_DEPTH} levels deep ({prefix[:60]}…); no model does"
        )
    if id(weights) in walk.seen:
        raise CheckpointError(
            f"{path} holds the same dictionary twice among its weights ({prefix[:60]}); no model does"
        )
    walk.seen.add(id(weights))
    walk.entries += len(weights)
    if walk.entries > _MAX_ENTRIES:
        raise CheckpointError(f"{path} holds more than {_MAX_ENTRIES:,} entries among its weights; no model does")
    for key, value in weights.items():
        is_weight = isinstance(value, TensorRef | OtherTensor | dict)
        if not is_weight:
            continue
        if not isinstance(key, str | int) or len(prefix) + len(str(key)) > _MAX_NAME:
            raise CheckpointError(f"{path} has a weight below {prefix[:60]!r} whose name is no name; save it again")
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _flatten(value, path, f"{name}.", depth + 1, walk)
        else:
            yield re.sub(r"^(module\.)+", "", name), value


def _stored(file: TorchFile, name: str, tensor: TensorRef | OtherTensor) -> StoredTensor:
    """Return the tensor if it is a plain one and the file holds all of its elements. Raises CheckpointError."""
    if isinstance(tensor, OtherTensor) or not file.holds(tensor):
        what = f"is {tensor.what}" if isinstance(tensor, OtherTensor) else "claims more elements than the file holds"
        raise CheckpointError(
            f"{file.path}: tensor {name[:100]} {what}; weights must be plain tensors, so save it again"
        )
    read_box = partial(file.read, tensor)
    return StoredTensor(file=file.path, name=name, shape=tensor.size, dtype=tensor.dtype, read_box=read_box)
