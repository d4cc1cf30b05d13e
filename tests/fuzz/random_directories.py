"""Random input directories: nested and hive directories, links, other formats, suffixes and hidden names.

The same seed gives the same directory on every machine.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

_DIRECTORIES = (
    *("a", "b", "новости", "with space", "day=1", "day=2", "day=__HIVE_DEFAULT_PARTITION__", "a%2Fb=1", "[x]", "x*"),
    *("_hidden", ".hidden", "_delta_log", "metadata", ".hoodie", "_temporary", "part.parquet"),
)
_FILES = (
    "a.parquet",
    "b.parquet",
    "A.parquet",
    "ё.parquet",
    "a b.parquet",
    "[x].parquet",
    "a*b.parquet",
    "c.snappy.parquet",
)
_OTHER_FILES = {
    "_SUCCESS": b"",
    "README.md": b"# text\n",
    "rows.csv": b"id,text\n1,a\n",
    "rows.jsonl": b'{"text": "a"}\n',
    "a.parquet.crc": b"crc\0",
    ".a.parquet.crc": b"crc\0",
    "a.parquet.tmp": b"",
    "_metadata": b"PAR1",
    "00000000000000000000.json": b'{"commitInfo": {}}\n',
    "notes.txt": "текст\n".encode(),
}
_KINDS = ("file", "file", "file", "file", "directory", "directory", "other", "other", "link", "no suffix")
# Most of these end a job with one sentence, so only some directories have them.
_HARMFUL_KINDS = ("loop", "broken", "empty")
_MAX_DEPTH = 3


def make_directory(seed: int, root: Path) -> dict[str, int]:
    """Fill `root`. Returns the rows of each Parquet file that every reader takes: visible, of a Parquet suffix, below
    visible directories and not behind a link."""
    rng = random.Random(seed)
    rows: dict[str, int] = {}
    outside = root.parent / f"{root.name}-elsewhere"
    outside.mkdir()
    write_rows(outside / "linked.parquet", 2)
    kinds = (*_KINDS, rng.choice(_HARMFUL_KINDS)) if rng.random() < 0.3 else _KINDS
    _fill(rng, root, outside, rows, kinds, is_visible=True)
    return rows


def write_rows(path: Path, count: int) -> None:
    pq.write_table(pa.table({"text": [f"текст {number}" for number in range(count)]}), path)


def _fill(
    rng: random.Random, folder: Path, outside: Path, rows: dict[str, int], kinds: tuple[str, ...], *, is_visible: bool
) -> None:
    depth = len(folder.relative_to(outside.parent).parts)
    for _ in range(rng.randrange(1, 6)):
        kind = rng.choice(kinds)
        if kind == "directory" and depth <= _MAX_DEPTH:
            path = folder / rng.choice(_DIRECTORIES)
            if not os.path.lexists(path):
                path.mkdir()
                is_shown = is_visible and not path.name.startswith(("_", "."))
                _fill(rng, path, outside, rows, kinds, is_visible=is_shown)
        elif kind == "file":
            path = folder / rng.choice(_FILES)
            if not os.path.lexists(path):
                count = rng.randrange(1, 4)
                write_rows(path, count)
                if is_visible:
                    rows[str(path)] = count
        elif kind != "directory":
            _add(rng, kind, folder, outside)


def _add(rng: random.Random, kind: str, folder: Path, outside: Path) -> None:
    """Add what some readers pass over: links, empty files, and files of other formats or without a suffix."""
    name, content = rng.choice(list(_OTHER_FILES.items()))
    path = folder / {"other": name, "no suffix": "part-00000", "empty": "empty.parquet"}.get(kind, f"{kind}.parquet")
    if os.path.lexists(path):
        return
    if kind == "other":
        path.write_bytes(content)
    elif kind == "no suffix":
        write_rows(path, 1)
    elif kind == "empty":
        path.touch()
    elif kind == "link":
        path.symlink_to(rng.choice((outside, outside / "linked.parquet")))
    elif kind == "loop":
        path.symlink_to(rng.choice((folder, folder.parent, path)))
    elif kind == "broken":
        path.symlink_to(folder / "nothing.parquet")
