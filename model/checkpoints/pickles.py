"""Opens torch pickles without running any code in them.

Always loads with `weights_only=True`. Training scripts save bookkeeping beside the weights
(argparse namespaces, numpy's random state, loss scalers): those names are replaced by an inert
class, so that nothing of theirs is imported or called. Any other name is code, and the file is
refused.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tirazh.errors import CheckpointError
from tirazh.model.checkpoints.tensors import Bounds, StoredTensor

if TYPE_CHECKING:
    from torch import Tensor

_BOOKKEEPING = re.compile(r"argparse\.Namespace$|(numpy|deepspeed|megatron|apex|src|fp16|mpu)\.")
# Pages of a memory map that were read count as the process's memory until the file is mapped again.
_REMAP_BYTES = 64 << 20
_DAMAGED = (
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    MemoryError,
    OverflowError,
    struct.error,
    zipfile.BadZipFile,
)
# State dicts are flat, or nested like their modules; deeper nesting is an attack.
_MAX_DEPTH = 16
_MAX_PICKLE_BYTES = 1 << 30


class _Inert:
    """Replaces an object of the training script: takes any arguments and does nothing."""

    def __init__(self, *args: object) -> None:
        pass

    def __new__(cls, *args: object) -> _Inert:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass


@dataclass(frozen=True, slots=True)
class PickledFile:
    """The tensors by name, and the plain numbers and strings saved beside them."""

    tensors: dict[str, StoredTensor]
    facts: dict[str, int | float | str]


class _Source:
    """The tensors of one pickle.

    The file is mapped again every 64 MiB, so that reading it takes little memory.
    """

    def __init__(self, path: Path, tensors: Mapping[str, Tensor], *, is_mapped: bool) -> None:
        self.path = path
        self.tensors = tensors
        self.is_mapped = is_mapped
        self.bytes_left = _REMAP_BYTES

    def read(self, name: str, box: Bounds) -> Tensor:
        if self.is_mapped and self.bytes_left <= 0:
            self.tensors = dict(_flatten(_weights(_load(self.path), self.path), self.path))
            self.bytes_left = _REMAP_BYTES
        part = self.tensors[name][tuple(slice(*bounds) for bounds in box)]
        self.bytes_left -= part.nbytes
        return part


def open_pickle(path: Path) -> PickledFile:
    """Open the weights of a torch pickle, memory-mapped.

    They are those under the key `module` or `model`, if there is one. Files written by torch before
    1.6 cannot be mapped; they are read into memory. Raises CheckpointError.
    """
    values = _load(path)
    tensors = dict(_flatten(_weights(values, path), path))
    if not tensors:
        raise CheckpointError(f"{path} holds no weights, neither at the top level nor under `module` or `model`")
    source = _Source(path, tensors, is_mapped=zipfile.is_zipfile(path))
    stored = {name: _stored(source, name, _checked(tensor, name, path)) for name, tensor in tensors.items()}
    facts = {str(key): value for key, value in values.items() if isinstance(value, int | float | str)}
    return PickledFile(stored, facts)


def _weights(values: Any, path: Path) -> Mapping[Any, Any]:
    if not isinstance(values, Mapping):
        raise CheckpointError(f"{path} holds a {type(values).__name__}, not a dictionary of weights")
    return next((values[key] for key in ("module", "model") if isinstance(values.get(key), Mapping)), values)


def _load(path: Path) -> Any:
    import torch
    from torch.serialization import safe_globals

    try:
        is_mappable = zipfile.is_zipfile(path)
        stand_ins = [(_Inert, name) for name in _global_names(path, is_mappable) if _BOOKKEEPING.match(name)]
        with safe_globals(stand_ins):  # type: ignore[arg-type]  # (class, name) pairs are allowed, see its docs
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_mappable)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found is None:
            raise CheckpointError(f"{path} is damaged or not a torch checkpoint; copy it again") from error
        raise CheckpointError(
            f"{path} contains code ({found[1]}) and was refused; only plain tensors are read, so save it again as a "
            "state dict or as safetensors"
        ) from error
    except _DAMAGED as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise CheckpointError(f"{path} is truncated or damaged ({reason[:200]}); copy it again") from error


def _global_names(path: Path, is_zip: bool) -> set[str]:
    """Return the names of everything the pickle would import, from its opcodes."""
    if not is_zip:
        with path.open("rb") as file:  # magic number, protocol and system are one pickle each, then the object
            return {name for _ in range(4) for name in _names(file)}
    with zipfile.ZipFile(path) as archive:
        packed = next((info for info in archive.infolist() if info.compress_type != zipfile.ZIP_STORED), None)
        entry = next((info for info in archive.infolist() if info.filename.endswith("/data.pkl")), None)
        if packed is not None or entry is None or entry.file_size > _MAX_PICKLE_BYTES:
            # A compressed entry could expand to any size; torch writes none.
            raise ValueError("it does not have the layout that torch writes")
        return set(_names(BytesIO(archive.read(entry))))


def _names(stream: IO[bytes]) -> Iterator[str]:
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name == "GLOBAL":
            yield str(argument).replace(" ", ".")


def _flatten(weights: Mapping[Any, Any], path: Path, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a nested or flat state dict, without the `module.` prefixes of wrappers.

    Raises CheckpointError for nesting so deep that it can only be a cycle or an attack.
    """
    import torch

    if depth > _MAX_DEPTH:
        raise CheckpointError(
            f"{path} nests its weights more than {_MAX_DEPTH} levels deep ({prefix[:60]}…); no model does"
        )
    for key, value in weights.items():
        name = f"{prefix}{key}"
        if isinstance(value, torch.Tensor):
            yield re.sub(r"^(module\.)+", "", name), value.detach()
        elif isinstance(value, Mapping):
            yield from _flatten(value, path, f"{name}.", depth + 1)


def _checked(tensor: Tensor, name: str, path: Path) -> Tensor:
    """Return the tensor if it is a plain CPU tensor and the file holds all of its elements.

    Raises CheckpointError.
    """
    is_plain = str(tensor.layout) == "torch.strided" and tensor.device.type == "cpu"
    if is_plain and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes():
        return tensor
    what = "claims more elements than the file holds" if is_plain else f"is {tensor.layout} on {tensor.device}"
    raise CheckpointError(f"{path}: tensor {name[:100]} {what}; weights must be plain tensors, so save it again")


def _stored(source: _Source, name: str, tensor: Tensor) -> StoredTensor:
    dtype = str(tensor.dtype).removeprefix("torch.")
    read_box = partial(source.read, name)
    return StoredTensor(file=source.path, name=name, shape=tuple(tensor.shape), dtype=dtype, read_box=read_box)
