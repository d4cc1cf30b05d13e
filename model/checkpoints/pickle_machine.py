"""Interprets the pickle of a torch checkpoint as data: nothing is imported, called or allocated for it.

A small stack machine knows the opcodes that `torch.save` writes (Python's `pickletools` documents
them). Dictionaries, lists, tuples, numbers and strings become themselves, tensors become
`TensorRef`, and the bookkeeping of training scripts becomes one inert object. So a pickle costs no
more time and memory than its own bytes and opcodes, both of which are limited.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

MAX_PICKLE_BYTES = 64 << 20
# A checkpoint of 10,000 tensors has about 400,000 opcodes.
_MAX_OPCODES = 1_000_000
_MAX_DIMENSIONS = 8
_MAX_ELEMENTS = 1 << 60

_BOOKKEEPING = re.compile(r"argparse\.Namespace$|(numpy|deepspeed|megatron|apex|src|fp16|mpu)\.")
_INERT_CALLS = re.compile(
    r"(_codecs\.encode|torch\.device|torch\.serialization\._get_layout"
    r"|(builtins|__builtin__)\.(bytearray|bytes|complex|slice|range|xrange))$"
)
_DICTS = ("collections.OrderedDict", "collections.defaultdict", "collections.Counter", "builtins.dict")
_LISTS = re.compile(r"((builtins|__builtin__)\.(set|frozenset|list|tuple)|torch\.Size)$")
_CLASSES = re.compile(r"torch\.(Tensor|_tensor\.Tensor|nn\.parameter\.(Parameter|Buffer)|[a-z]+\d*(_\w+)?)$")
_REBUILD = "torch._utils._rebuild_"
_STORAGE = re.compile(r"torch\.(cuda\.|storage\.)?(\w+)Storage$")
_STORAGE_DTYPES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
    "ComplexDouble": "complex128",
    "ComplexFloat": "complex64",
    "Untyped": "uint8",
}
ITEM_BYTES = {
    **{"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2},
    **{"int8": 1, "uint8": 1, "bool": 1, "complex128": 16, "complex64": 8},
}


class CodeFoundError(ValueError):
    """The pickle names something that is neither data nor known bookkeeping; the message is that name."""


class Inert:
    """Stands for an object of the training script, which is not made."""


@dataclass(frozen=True, slots=True)
class Name:
    """What a pickle would import, by its dotted name."""

    name: str


@dataclass(frozen=True, slots=True)
class StorageRef:
    """The elements of a storage record of the file; `key` names the record."""

    key: str
    dtype: str
    num_elements: int
    location: str


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A view of a storage. `offset` and `stride` count elements of `dtype`."""

    storage: StorageRef
    dtype: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class OtherTensor:
    """A tensor that is not a plain one: sparse, quantised, nested, or without data. `what` says which."""

    what: str


_INERT = Inert()
_MARK = object()


@dataclass(frozen=True, slots=True)
class Interpreted:
    """The value of a pickle, and every storage that it refers to, by key."""

    value: Any
    storages: dict[str, StorageRef]


def interpret(stream: BytesIO) -> Interpreted:
    """Interpret the pickle at the stream's position, which is then behind it.

    Raises CodeFoundError for code, and ValueError with a reason for a damaged or an excessive
    pickle.
    """
    machine = _Machine()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if count >= _MAX_OPCODES:
            raise ValueError(f"its pickle has more than {_MAX_OPCODES:,} opcodes")
        run = _OPCODES.get(opcode.name)
        if run is None:
            raise ValueError(f"its pickle has the opcode {opcode.name}, which torch does not write")
        run(machine, argument)
    return Interpreted(machine.pop(), machine.storages)


class _Machine:
    """The stack and the memo of a pickle that is being read."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, StorageRef] = {}

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise ValueError("its pickle takes a value that it did not make")
        return self.stack.pop()

    def top(self) -> Any:
        value = self.pop()
        self.push(value)
        return value

    def pop_mark(self) -> list[Any]:
        """Take everything above the last mark, and the mark."""
        above: list[Any] = []
        while self.stack and self.stack[-1] is not _MARK:
            above.append(self.stack.pop())
        if not self.stack:
            raise ValueError("its pickle takes values that it did not make")
        self.stack.pop()
        return above[::-1]

    def pops(self, count: int) -> list[Any]:
        return [self.pop() for _ in range(count)][::-1]

    def put(self, index: int) -> None:
        self.memo[index] = self.top()

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise ValueError("its pickle takes a value that it did not make")
        self.push(self.memo[index])

    def set_items(self, pairs: list[Any]) -> None:
        target = self.top()
        if len(pairs) % 2:
            raise ValueError("its pickle has a key without a value")
        if isinstance(target, dict):
            for key, value in zip(pairs[::2], pairs[1::2], strict=True):
                target[_key(key)] = value

    def extend(self, values: list[Any]) -> None:
        target = self.top()
        if isinstance(target, list):
            target.extend(values)

    def reduce(self) -> None:
        function, arguments = self.pops(2)
        self.push(_call(function, arguments))

    def name(self, module: Any, name: Any) -> None:
        self.push(_find(f"{module}.{name}"))

    def persistent(self) -> None:
        storage = _storage(self.pop())
        if self.storages.setdefault(storage.key, storage) != storage:
            raise ValueError("its pickle describes one storage in two ways")
        self.push(storage)

    def build(self) -> None:
        self.pop()  # attributes of an object, which no weight needs


def _key(value: Any) -> Any:
    """Return a key that is hashed in constant time; other objects are represented by new ones.

    Raises ValueError for numbers and nested tuples, which can be chosen so that hashing them takes
    for ever: transformers reads the same file with torch.
    """
    if isinstance(value, int) and abs(value) >= _MAX_ELEMENTS:
        raise ValueError("a key of its dictionaries is an excessive number")
    if isinstance(value, list | tuple) and any(isinstance(item, list | tuple | dict) for item in value):
        raise ValueError("a key of its dictionaries is nested")
    return value if isinstance(value, str | int) else Inert()


def _find(name: str) -> Any:
    if _BOOKKEEPING.match(name):
        return _INERT
    known = (
        name in _DICTS
        or name.startswith(_REBUILD)
        or name == "torch._tensor._rebuild_from_type_v2"
        or any(pattern.match(name) for pattern in (_INERT_CALLS, _LISTS, _CLASSES, _STORAGE))
    )
    if not known:
        raise CodeFoundError(name[:200])
    return Name(name)


def _call(function: Any, arguments: Any) -> Any:
    """Return what the reader makes of `function(*arguments)`."""
    if isinstance(function, Inert):
        return _INERT
    if not isinstance(function, Name) or not isinstance(arguments, tuple):
        raise ValueError("its pickle calls something that is not a function")
    return _result(function.name, arguments)


def _result(name: str, arguments: tuple[Any, ...]) -> Any:
    if _INERT_CALLS.match(name):
        if name.endswith(("bytearray", "bytes")) and any(isinstance(argument, int) for argument in arguments):
            raise ValueError(f"its pickle asks for a {name.rpartition('.')[2]} of a chosen size")
        return _INERT
    if name in _DICTS:
        return _dict(arguments)
    if _LISTS.match(name):
        items = arguments[0] if arguments and isinstance(arguments[0], list | tuple) else ()
        if name.endswith("set"):
            return [_key(item) for item in items]
        return tuple(items) if name.endswith(("Size", "tuple")) else list(items)
    if name == "torch._tensor._rebuild_from_type_v2" and len(arguments) == 4:
        inner = arguments[0]
        if isinstance(inner, Name) and inner.name.startswith(_REBUILD):
            return _call(inner, arguments[2])
    if name.startswith(_REBUILD):
        return _tensor(name.removeprefix(_REBUILD), arguments)
    raise CodeFoundError(name[:200])


def _dict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    """Return the dictionary of an OrderedDict, a defaultdict or a Counter and its first items."""
    first = arguments[-1] if arguments else {}
    if isinstance(first, dict):
        return dict(first)
    pairs = first if isinstance(first, list | tuple) else ()
    return {_key(pair[0]): pair[1] for pair in pairs if isinstance(pair, list | tuple) and len(pair) == 2}


def _tensor(kind: str, arguments: tuple[Any, ...]) -> TensorRef | OtherTensor:
    """Return the tensor of one of torch's `_rebuild_…` functions."""
    if kind.startswith("parameter") and arguments and isinstance(arguments[0], TensorRef | OtherTensor):
        return arguments[0]
    if kind not in ("tensor", "tensor_v2", "tensor_v3") or len(arguments) < 4:
        return OtherTensor(f"made by _rebuild_{kind[:40]}")
    storage, offset, size, stride = arguments[:4]
    metadata = arguments[6] if kind == "tensor_v2" and len(arguments) > 6 else None
    if not isinstance(storage, StorageRef) or storage.location == "meta" or metadata:
        return OtherTensor("without data of its own")
    dtype = storage.dtype
    if kind == "tensor_v3":
        named = arguments[6] if len(arguments) > 6 else None
        dtype = named.name.removeprefix("torch.") if isinstance(named, Name) else ""
    if dtype not in ITEM_BYTES:
        return OtherTensor(f"of dtype {dtype[:40]}")
    if not (_is_count(offset) and _are_counts(size) and _are_counts(stride) and len(size) == len(stride)):
        raise ValueError("a tensor has an impossible size, stride or offset")
    return TensorRef(storage, dtype, offset, tuple(size), tuple(stride))


def _storage(identity: Any) -> StorageRef:
    """Return the storage of a persistent id: ("storage", class, key, device, number of elements[, view])."""
    if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != "storage":
        raise ValueError("its pickle refers to something that is not a storage")
    kind, key, location, count = identity[1:5]
    found = _STORAGE.match(kind.name) if isinstance(kind, Name) else None
    dtype = _STORAGE_DTYPES.get(found[2], found[2]) if found else None
    is_view = len(identity) == 6 and identity[5] is not None
    if dtype is None or is_view or not isinstance(key, str) or not isinstance(location, str) or not _is_count(count):
        raise ValueError("its pickle refers to a storage of an unknown kind")
    return StorageRef(key, dtype, count, location)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_ELEMENTS


def _are_counts(values: Any) -> bool:
    return isinstance(values, list | tuple) and len(values) <= _MAX_DIMENSIONS and all(map(_is_count, values))


Run = Callable[[_Machine, Any], None]
_VALUES = (
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "INT", "LONG", "FLOAT", "BINFLOAT", "BINUNICODE", "UNICODE"),
    *("BINUNICODE8", "SHORT_BINUNICODE", "BINBYTES", "BINBYTES8", "SHORT_BINBYTES", "BYTEARRAY8"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING"),
)
_OPCODES: dict[str, Run] = {
    **dict.fromkeys(_VALUES, lambda machine, value: machine.push(value)),
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda machine, _: None),
    **dict.fromkeys(("BINGET", "LONG_BINGET", "GET"), lambda machine, index: machine.get(int(index))),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "PUT"), lambda machine, index: machine.put(int(index))),
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "MARK": lambda machine, _: machine.push(_MARK),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    **dict.fromkeys(("EMPTY_LIST", "EMPTY_SET"), lambda machine, _: machine.push([])),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_mark())),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.pops(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.pops(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.pops(3))),
    **dict.fromkeys(("LIST", "FROZENSET"), lambda machine, _: machine.push(machine.pop_mark())),
    "APPEND": lambda machine, _: machine.extend(machine.pops(1)),
    **dict.fromkeys(("APPENDS", "ADDITEMS"), lambda machine, _: machine.extend(machine.pop_mark())),
    "SETITEM": lambda machine, _: machine.set_items(machine.pops(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_mark()),
    "GLOBAL": lambda machine, names: machine.name(*str(names).split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.name(*machine.pops(2)),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), lambda machine, _: machine.reduce()),
    "BUILD": lambda machine, _: machine.build(),
    "BINPERSID": lambda machine, _: machine.persistent(),
}
