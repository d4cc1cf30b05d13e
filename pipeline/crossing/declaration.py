"""What a user may write for `vary`, `rows` and `per_cell`: reads no file, and knows no columns.

vary:
  topic: topics.txt                              # one value a line
  style: [plain, lively]
  mood: {calm: 3, angry: 1}                      # weights
  persona: personas.parquet#description
  city: {values: cities.csv#name, weights: population}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tirazh.errors import RequestError, did_you_mean
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.secrets import holds_secret

FileFormat = Literal["txt", "csv", "jsonl", "parquet"]
Value = str | int | float

MAX_NAMES = 32
MAX_ROWS = (1 << 31) - 1  # the repetition of a row is an int32
MAX_CELLS = (1 << 62) - 1  # the number of a cell is an int64
_FILE = re.compile(r"(?P<uri>.+?\.(?P<format>txt|csv|jsonl|parquet))(?:#(?P<column>.*))?", re.IGNORECASE | re.DOTALL)
_KEYS = ("values", "weights")
_FORMS = "a list, a mapping of values to weights, or a .txt, .csv, .jsonl or .parquet file"


@dataclass(frozen=True, slots=True)
class FileColumn:
    """A column of a file. `column` is None for a .txt file, and where the file may have a single one."""

    uri: str
    format: FileFormat
    column: str | None = None

    def __str__(self) -> str:
        return show_uri(self.uri) + (f"#{self.column}" if self.column is not None else "")


@dataclass(frozen=True, slots=True)
class Declaration:
    """The values of one name: written down (`values`), or those of a file.

    `weights` are numbers, or the name of a column of the file; None gives all values the same.
    """

    name: str
    values: tuple[Any, ...] | FileColumn
    weights: tuple[Any, ...] | str | None = None


def parse_vary(vary: Any) -> tuple[Declaration, ...]:
    """Return the declarations in their order. Raises RequestError for anything but the forms above."""
    if not isinstance(vary, Mapping) or not vary:
        raise RequestError("--vary must be a mapping of template variables to values, such as {style: [plain, lively]}")
    if len(vary) > MAX_NAMES:
        raise RequestError(f"--vary has {len(vary)} names; at most {MAX_NAMES} are allowed")
    return tuple(_declare(name, value) for name, value in vary.items())


def check_rows(
    vary: Any, *, rows: int | None, per_cell: int | None, has_input: bool, accepted: int | None = None
) -> None:
    """Raise RequestError unless `vary`, `rows` and `per_cell` go together.

    With `accepted` the number of rows of a cell follows from the attempts.
    """
    for name, number in (("--rows", rows), ("--per-cell", per_cell)):
        if number is not None and not 1 <= number <= MAX_ROWS:
            raise RequestError(f"{name} must be between 1 and {MAX_ROWS}, not {number}")
    if vary is None:
        given = "--rows" if rows is not None else "--per-cell"
        if (rows, per_cell) != (None, None):
            raise RequestError(f"{given} counts rows of the values of --vary; give --vary, or leave {given} out")
        return
    parse_vary(vary)
    if has_input:
        _check_rows_of_input(rows, accepted)
        return
    if rows is not None and per_cell is not None:
        raise RequestError("--rows and --per-cell are not used together; --rows draws, --per-cell makes all cells")
    if accepted is not None and rows is not None:
        raise RequestError("--accepted counts rows of every cell, and is not used together with --rows")
    if rows is None and per_cell is None and accepted is None:
        raise RequestError("--vary needs the number of rows: --per-cell for every cell, or --rows to draw from them")


def _check_rows_of_input(rows: int | None, accepted: int | None) -> None:
    """With an input every row of it is crossed with every cell, `per_cell` times (default 1)."""
    for name, number in (("--rows", rows), ("--accepted", accepted)):
        if number is not None:
            raise RequestError(
                f"{name} is not used with --input and --vary, which cross every input row with every cell; give "
                "--per-cell, or leave --input out"
            )


def parse_file(text: str) -> FileColumn | None:
    """The file that a text names, as `FILE` or `FILE#COLUMN`; None for any other text."""
    match = _FILE.fullmatch(text)
    if match is None:
        return None
    lower = match["format"].lower()
    formats: dict[str, FileFormat] = {"txt": "txt", "csv": "csv", "jsonl": "jsonl", "parquet": "parquet"}
    return FileColumn(match["uri"], formats[lower], match["column"] or None)


def _declare(name: str, value: Any) -> Declaration:
    if isinstance(value, str):
        return Declaration(name, _named_file(name, value))
    if isinstance(value, list | tuple):
        return Declaration(name, tuple(value))
    if not isinstance(value, Mapping):
        raise RequestError(f"--vary, {name}: the values must be {_FORMS}, not {value!r}")
    if all(map(_is_number, value.values())):
        return Declaration(name, tuple(value), tuple(value.values()))
    return _declare_weighted(name, value)


def _declare_weighted(name: str, value: Mapping[str, Any]) -> Declaration:
    """The form `{values: …, weights: …}`."""
    if not any(isinstance(value.get(key), str | list | tuple) for key in _KEYS):
        text, weight = next((text, weight) for text, weight in value.items() if not _is_number(weight))
        raise RequestError(f"--vary, {name}: the weight of {text!r} must be a number, not {weight!r}")
    for key in value:
        if key not in _KEYS:
            raise RequestError(
                f"--vary, {name}: unknown key {key!r}{did_you_mean(key, _KEYS)} (a mapping has the keys values and "
                "weights, or a number for every value)"
            )
    values, weights = value.get("values"), value.get("weights")
    if not isinstance(values, str | list | tuple):
        raise RequestError(f"--vary, {name}: values must be a list or a file, not {values!r}")
    if weights is not None and not isinstance(weights, str | list | tuple):
        raise RequestError(
            f"--vary, {name}: weights must be a list of numbers or the name of a column of the file, not {weights!r}"
        )
    chosen = _named_file(name, values) if isinstance(values, str) else tuple(values)
    if isinstance(weights, str) and (not isinstance(chosen, FileColumn) or chosen.format == "txt"):
        raise RequestError(
            f"--vary, {name}: weights: {weights} names a column, but the values are in no file with columns; give a "
            "list of numbers"
        )
    return Declaration(name, chosen, weights if weights is None or isinstance(weights, str) else tuple(weights))


def _named_file(name: str, text: str) -> FileColumn:
    file = parse_file(text)
    if file is None:
        shown = text if len(text) < 60 else text[:60] + "…"
        raise RequestError(
            f"--vary, {name}: the values must be {_FORMS}, not the text {shown!r}; write one value as a list: [{shown}]"
        )
    if file.format == "txt" and file.column is not None:
        raise RequestError(f"--vary, {name}: {file}: a .txt file has no columns; write {show_uri(file.uri)}")
    if holds_secret(file.uri):
        raise RequestError(
            f"--vary, {name}: the address {show_uri(file.uri)} contains a password or a signature; remove it and set "
            "the credentials in the environment of the machine that reads it"
        )
    return file


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
