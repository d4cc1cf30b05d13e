"""The two layouts of files that `torch.save` writes: where the pickle and the bytes of each storage are.

Since torch 1.6 a file is a zip of uncompressed records: `NAME/data.pkl` and one `NAME/data/KEY` for
each storage. Before, it was a sequence of five pickles (magic number, protocol, system, the object, the keys
of the storages), followed by the storages, each behind its number of elements (see
`torch/serialization.py`). Both are mapped into memory only where a tensor is read.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tirazh.model.checkpoints.pickle_machine import ITEM_BYTES, MAX_PICKLE_BYTES, StorageRef, TensorRef, interpret

if TYPE_CHECKING:
    from torch import Tensor

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
# The list of a zip's records; a checkpoint of 10,000 tensors has one MiB.
_MAX_DIRECTORY_BYTES = 16 << 20
_LOCAL_HEADER = struct.Struct("<4s22xHH")


@dataclass(frozen=True, slots=True)
class TorchFile:
    """The value of a file's pickle, and where its storages are: (first byte, number of bytes) by key."""

    path: Path
    value: Any
    spans: Mapping[str, tuple[int, int]]

    def holds(self, tensor: TensorRef) -> bool:
        """Return whether the file holds all elements that the tensor claims, once each."""
        item = ITEM_BYTES[tensor.dtype]
        _, num_bytes = self.spans.get(tensor.storage.key, (0, 0))
        held = min(num_bytes, tensor.storage.num_elements * ITEM_BYTES.get(tensor.storage.dtype, 1)) // item
        count, last = 1, tensor.offset
        for size, stride in zip(tensor.size, tensor.stride, strict=True):
            count *= size
            last += (size - 1) * stride
        return count == 0 or (count <= held and last < held)

    def read(self, tensor: TensorRef, box: tuple[tuple[int, int], ...]) -> Tensor:
        """Read (start, stop) of every dimension of a tensor that the file holds.

        The result may share memory with the file, which is mapped again for every read: pages that
        were read count as the process's memory only while they are mapped.
        """
        import torch

        dtype = getattr(torch, tensor.dtype)
        if 0 in tensor.size:
            return torch.empty(tensor.size, dtype=dtype)[tuple(slice(*bounds) for bounds in box)]
        start, num_bytes = self.spans[tensor.storage.key]
        mapped = torch.UntypedStorage.from_file(str(self.path), shared=False, nbytes=self.path.stat().st_size)
        view = torch.empty(0, dtype=dtype).set_(
            mapped[start : start + num_bytes], tensor.offset, tensor.size, tensor.stride
        )
        part: Tensor = view[tuple(slice(*bounds) for bounds in box)]
        # Only torch's own zips align their records.
        return part if start % 16 == 0 else part.clone()


def open_torch_file(path: Path) -> TorchFile:
    """Read the pickle of a file and find its storages.

    Raises CodeFoundError for code, ValueError or one of the errors of `zipfile` for a file that
    torch did not write.
    """
    if zipfile.is_zipfile(path):
        return _open_zip(path)
    return _open_legacy(path)


def _open_zip(path: Path) -> TorchFile:
    with path.open("rb") as file:
        _check_directory(file)
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        records = archive.infolist()
        by_name = {record.filename: record for record in records}
        pickles = [name for name in by_name if name.endswith("/data.pkl")]
        if (
            len(pickles) != 1
            or len(by_name) != len(records)
            # A compressed record could expand to any size; torch writes none.
            or any(record.compress_type != zipfile.ZIP_STORED for record in records)
        ):
            raise ValueError("it does not have the layout that torch writes")
        root = pickles[0].removesuffix("data.pkl")
        order = by_name.get(f"{root}byteorder")
        if order is not None and (order.file_size != len(b"little") or archive.read(order) != b"little"):
            raise ValueError("it was written by a machine of another byte order")
        if by_name[pickles[0]].file_size > MAX_PICKLE_BYTES:
            raise ValueError(f"its pickle is larger than {MAX_PICKLE_BYTES >> 20} MiB")
        value = interpret(BytesIO(archive.read(pickles[0]))).value
        size = path.stat().st_size
        spans = {}
        for name, record in by_name.items():
            if name.startswith(f"{root}data/"):
                start = _data_start(file, record)
                if start + record.file_size > size:
                    raise ValueError("a record ends behind the end of the file")
                spans[name.removeprefix(f"{root}data/")] = (start, record.file_size)
    return TorchFile(path, value, spans)


def _check_directory(file: Any) -> None:
    """Refuse a list of records so long that reading it alone would take gigabytes."""
    end = zipfile._EndRecData(file)  # type: ignore[attr-defined]  # what ZipFile itself reads first
    if end is None or end[5] > _MAX_DIRECTORY_BYTES:
        raise ValueError(f"its list of records is larger than {_MAX_DIRECTORY_BYTES >> 20} MiB")


def _data_start(file: Any, record: zipfile.ZipInfo) -> int:
    """Return the offset of a record's bytes, which follow a header of variable length."""
    file.seek(record.header_offset)
    signature, name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    if signature != b"PK\3\4":
        raise ValueError("a record has no header")
    start: int = record.header_offset + _LOCAL_HEADER.size + name_length + extra_length
    return start


def _open_legacy(path: Path) -> TorchFile:
    with path.open("rb") as file:
        stream = BytesIO(file.read(MAX_PICKLE_BYTES))
        if interpret(stream).value != _LEGACY_MAGIC:
            raise ValueError("it does not begin as torch's files do")
        interpret(stream)  # the protocol
        system = interpret(stream).value
        if isinstance(system, dict) and system.get("little_endian", True) is not True:
            raise ValueError("it was written by a machine of another byte order")
        found = interpret(stream)
        keys = interpret(stream).value
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise ValueError("it does not list its storages")
        spans = _legacy_spans(path, file, stream.tell(), keys, found.storages)
    return TorchFile(path, found.value, spans)


def _legacy_spans(
    path: Path, file: Any, position: int, keys: list[str], storages: Mapping[str, StorageRef]
) -> dict[str, tuple[int, int]]:
    size = path.stat().st_size
    spans = {}
    for key in keys:
        file.seek(position)
        (count,) = struct.unpack("<q", file.read(8))
        if key not in storages:
            raise ValueError("it holds a storage that no tensor uses")
        item = ITEM_BYTES.get(storages[key].dtype, 1)
        position += 8
        if count < 0 or position + count * item > size:
            raise ValueError("a storage ends behind the end of the file")
        spans[key] = (position, count * item)
        position += count * item
    return spans
