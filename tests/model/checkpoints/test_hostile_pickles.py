"""A small pickle that describes something huge costs little memory and time, and is refused in one sentence.

The files are opened in a process of its own with a limit on its address space, so that a reader that
believed them would fail.
"""

from __future__ import annotations

import json
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.model.checkpoints.samples import TINY, random_weights, write_rugpts

LIMIT_BYTES = 1 << 30
OPEN_ALL = """
import json, resource, sys, time
from tirazh.errors import CheckpointError
from tirazh.model.checkpoints.pickles import open_pickle

resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]), int(sys.argv[1])))
from pathlib import Path
for path in sorted(Path(sys.argv[2]).iterdir()):
    started = time.process_time()
    try:
        found = f"read {len(open_pickle(path).tensors)} tensors"
    except CheckpointError as error:
        found = str(error)
    # `ru_maxrss` would begin at the memory of the process that has started this one.
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0])
    print(json.dumps([path.stem, found, time.process_time() - started, peak]), flush=True)
"""

EMPTY_DICT, MARK, SETITEMS, STOP, REDUCE, TUPLE1, TUPLE2 = b"}", b"(", b"u", b".", b"R", b"\x85", b"\x86"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def put(index: int) -> bytes:
    return b"r" + struct.pack("<I", index)


def get(index: int) -> bytes:
    return b"j" + struct.pack("<I", index)


def module_of(*items: bytes) -> bytes:
    """Return a pickle of {"module": {...}} with keys and values that are already pickled."""
    return b"\x80\x02" + EMPTY_DICT + text("module") + EMPTY_DICT + MARK + b"".join(items) + SETITEMS + b"s" + STOP


def nested(levels: int, width: int) -> bytes:
    """Return a dictionary of `width` keys that all hold the next one, `levels` deep."""
    made = EMPTY_DICT + put(0)
    for level in range(1, levels):
        keys = b"".join(text(f"k{index}") + get(level - 1) for index in range(width))
        made += EMPTY_DICT + put(level) + MARK + keys + SETITEMS
    return made


def wide(levels: int) -> bytes:
    made = nested(levels, 12)
    return module_of(text("x") + b"]" + MARK + made + b"e", text("y") + get(levels - 1))


def paired_tuples(levels: int) -> bytes:
    """Return a key that takes 2**levels steps to hash."""
    key = b")" + put(0)
    for level in range(1, levels):
        key += get(level - 1) + get(level - 1) + TUPLE2 + put(level)
    return module_of(text("x") + b"]" + MARK + key + b"e", get(levels - 1) + b"N")


def calls(module: str, name: str, *arguments: bytes) -> bytes:
    call = f"c{module}\n{name}\n".encode() + MARK + b"".join(arguments) + b"t" + REDUCE
    return module_of(text("x") + call)


def number(value: int) -> bytes:
    data = value.to_bytes(9, "little")
    return b"\x8a" + bytes([len(data)]) + data


def storage(key: str, count: int) -> bytes:
    parts = text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + number(count)
    return MARK + parts + b"t" + b"Q"


def tensor(key: str, count: int, size: int, stride: int = 1, offset: int = 0) -> bytes:
    shape = number(size) + TUPLE1 + number(stride) + TUPLE1
    arguments = MARK + storage(key, count) + number(offset) + shape + b"\x89" + b"}" + b"t"
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + REDUCE


def zipped(pickled: bytes, records: dict[str, bytes] | None = None, **options: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", **options) as archive:
            archive.writestr("archive/data.pkl", pickled)
            for key, content in ({"0": bytes(64)} if records is None else records).items():
                archive.writestr(f"archive/data/{key}", content)

    return write


def legacy(pickled: bytes, *, keys: list[str], storages: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        head = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
        path.write_bytes(head + pickled + pickle.dumps(keys, 2) + storages)

    return write


FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "wide and shared": (zipped(wide(14)), "holds the same dictionary twice among its weights"),
    "a key that cannot be hashed in time": (zipped(paired_tuples(60)), "a key of its dictionaries is nested"),
    "keys that collide": (
        zipped(module_of(*(number(index * (2**61 - 1)) + b"N" for index in range(1, 60)))),
        "a key of its dictionaries is an excessive number",
    ),
    "a bytearray of 2**40": (zipped(calls("builtins", "bytearray", number(1 << 40))), "a bytearray of a chosen size"),
    "bytes of 2**40": (zipped(calls("__builtin__", "bytes", number(1 << 40))), "bytes of a chosen size"),
    "a tensor made by its size": (zipped(calls("torch", "Tensor", number(1 << 40))), "contains code (torch.Tensor)"),
    "a storage made by its size": (zipped(calls("torch", "FloatStorage", number(1 << 40))), "contains code"),
    "two million empty lists": (zipped(module_of(text("x") + MARK + b"]" * 2_000_000 + b"l")), "more than 1,000,000"),
    "five million memo entries": (zipped(b"\x80\x02" + EMPTY_DICT + b"q\0" * 5_000_000 + STOP), "more than 1,000,000"),
    "50 million levels of lists": (
        zipped(b"\x80\x02" + b"]" * 50_000_000 + b"a" * 49_999_999 + STOP),
        "larger than 64 MiB",
    ),
    "a tensor behind the end of its storage": (
        zipped(module_of(text("w") + tensor("0", 16, 16, offset=1))),
        "claims more elements than the file holds",
    ),
    "a huge stride": (
        zipped(module_of(text("w") + tensor("0", 16, 2, stride=1 << 59))),
        "claims more elements than the file holds",
    ),
    "a stride of zero": (zipped(module_of(text("w") + tensor("0", 16, 1 << 40, stride=0))), "claims more elements"),
    "a storage larger than its record": (
        zipped(module_of(text("w") + tensor("0", 1 << 40, 1 << 40))),
        "claims more elements than the file holds",
    ),
    "a storage without a record": (zipped(module_of(text("w") + tensor("9", 16, 16))), "claims more elements"),
    "one storage described in two ways": (
        zipped(module_of(text("a") + tensor("0", 16, 16), text("b") + tensor("0", 8, 8))),
        "describes one storage in two ways",
    ),
    "a zip bomb": (
        zipped(module_of(text("w") + tensor("0", 16, 16)), {"0": bytes(1 << 27)}, compression=zipfile.ZIP_DEFLATED),
        "does not have the layout that torch writes",
    ),
    "an old file whose storage is larger than it": (
        legacy(module_of(text("w") + tensor("0", 1 << 40, 1 << 40)), keys=["0"], storages=struct.pack("<q", 1 << 40)),
        "a storage ends behind the end of the file",
    ),
    "names of a gigabyte": (
        zipped(module_of(text("a" * 1_000_000) + b"}" + MARK + text("b") + tensor("0", 16, 16) + SETITEMS)),
        "whose name is no name",
    ),
    "a valid file": (zipped(module_of(text("w") + tensor("0", 16, 16))), "read 1 tensors"),
    "a valid old file": (
        legacy(
            module_of(text("w") + tensor("0", 4, 4)),
            keys=["0"],
            storages=struct.pack("<q", 4) + struct.pack("<4f", 1, 2, 3, 4),
        ),
        "read 1 tensors",
    ),
}


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, float, int]]:
    """What opening each file gave: the message, CPU seconds, and the largest memory of the process so far in KiB."""
    folder = tmp_path_factory.mktemp("pickles")
    for name, (write, _) in FILES.items():
        write(folder / f"{name}.pt")
    command = [sys.executable, "-c", OPEN_ALL, str(LIMIT_BYTES), str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(lines) == len(FILES), result.stderr[-2_000:]
    return {name: (found, seconds, peak) for name, found, seconds, peak in lines}


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_pickle_is_bounded_and_refused_in_one_sentence(
    opened: dict[str, tuple[str, float, int]], name: str
) -> None:
    found, seconds, peak = opened[name]
    assert FILES[name][1] in found
    assert "\n" not in found
    assert len(found) < 700
    assert seconds < 15
    assert peak < 700 << 10


def test_the_values_of_an_old_file_are_where_they_are_looked_for(tmp_path: Path) -> None:
    from tirazh.model.checkpoints.pickles import open_pickle

    FILES["a valid old file"][0](tmp_path / "old.pt")
    stored = open_pickle(tmp_path / "old.pt").tensors["w"]
    assert stored.read_box(((1, 4),)).tolist() == [2.0, 3.0, 4.0]


def test_opening_ranks_imports_no_torch(tmp_path: Path) -> None:
    folder = write_rugpts(tmp_path / "m", random_weights(TINY))
    code = (
        "import sys; from tirazh.model.checkpoints.directory import describe; "
        "describe(sys.argv[1]); print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
