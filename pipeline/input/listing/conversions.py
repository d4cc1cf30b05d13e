"""The command that writes a text file, or those of a directory, to Parquet: for inputs in other formats.

The commands need only what tirazh itself needs. Values of JSON keep their types and texts stay texts, because no
type is guessed; columns of CSV get the types that Arrow finds in them.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable

# Text files are read as they are, if they are given by name and are not larger: a worker parses the whole file for
# each part that it reads.
MAX_BYTES = 64 << 20
_READABLE = ("jsonl", "json", "csv", "tsv", "txt")
_SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "txt",
    ".orc": "orc",
    ".feather": "feather",
}
_COMPRESSED = (".gz", ".bz2", ".zst")
_LINES = 'io.TextIOWrapper(a.input_stream(f), encoding="utf-8-sig", newline="\\n")'
_READ_CSV = "c.read_csv(f, c.ReadOptions(block_size=1<<30), c.ParseOptions(newlines_in_values=True{}))"
# Imports, and the expression for the table in file `f`.
_READERS = {
    "jsonl": ("io, json, ", f"a.Table.from_struct_array(a.array([json.loads(l) for l in {_LINES} if l.strip()]))"),
    "json": (
        "io, json, ",
        'a.Table.from_struct_array(a.array(json.load(io.TextIOWrapper(a.input_stream(f), encoding="utf-8-sig"))))',
    ),
    "csv": ("pyarrow.csv as c, ", _READ_CSV.format("")),
    "tsv": ("pyarrow.csv as c, ", _READ_CSV.format(', delimiter="\\t"')),
    "txt": ("io, ", f'a.table({{"text": [l.rstrip("\\r\\n") for l in {_LINES}]}})'),
    "orc": ("pyarrow.orc as o, ", "o.read_table(f)"),
    "feather": ("pyarrow.feather as o, ", "o.read_table(f)"),
}


def text_format(name: str, head: bytes = b"") -> str | None:
    """The format of a file by its name, and by its first bytes for JSON; None for one that has no command."""
    found = _SUFFIXES.get(os.path.splitext(_without_compression(name.lower()))[1])
    return "json" if found == "jsonl" and head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[") else found


def is_text_file(name: str) -> bool:
    """Whether the name of a file is that of a text format that can be read."""
    return text_format(name) in _READABLE


def convert_file(path: str, kind: str) -> str:
    """One line for a shell that writes the file of this `text_format` to PATH.parquet."""
    return _command(kind, f"[{quoted(path)}]")


def convert_directory(directory: str, names: Iterable[str], kind: str) -> str:
    """One line for a shell that writes the files of this `text_format` below a directory beside themselves.

    `names` are their paths below the directory; only their suffixes matter.
    """
    endings = sorted({_ending(name) for name in names})
    ending = quoted(endings[0]) if len(endings) == 1 else f"({', '.join(map(quoted, endings))})"
    files = f'[str(f) for f in pathlib.Path({quoted(directory)}).rglob("*") if f.name.endswith({ending})]'
    return _command(kind, files, "pathlib, ")


def _without_compression(name: str) -> str:
    return next((name.removesuffix(each) for each in _COMPRESSED if name.endswith(each)), name)


def _ending(name: str) -> str:
    """The suffix of a name, with that of its compression."""
    stem = os.path.splitext(_without_compression(name))[0]
    return name.removeprefix(stem)


def _command(kind: str, files: str, more: str = "") -> str:
    imports, table = _READERS[kind]
    code = f'import {more}{imports}pyarrow as a, pyarrow.parquet as p; [p.write_table({table}, f + ".parquet") '
    return python(f"{code}for f in {files}]")


def python(code: str) -> str:
    """The command for a shell that runs `code`."""
    return f"python -c {shlex.quote(code)}"


def quoted(text: str) -> str:
    """`text` as Python code, with double quotes so that a shell may take it between single ones."""
    return json.dumps(text, ensure_ascii=False)
