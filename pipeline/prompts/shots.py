"""Few-shot examples that every row draws for itself: which ones follows from the row's seed and the file's content."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import pyarrow as pa

from tirazh.errors import InputError, RowError
from tirazh.pipeline.column_values import BrokenText, values_of
from tirazh.pipeline.input.overrides import hash_63
from tirazh.pipeline.input.repetitions import content_of
from tirazh.pipeline.prompts.examples_file import parse_examples
from tirazh.pipeline.prompts.template import PromptTemplate
from tirazh.pipeline.prompts.variable_types import check_variable
from tirazh.pipeline.storage.errors import show_uri

EXAMPLES = "examples"  # what a template calls them
# Every process that writes prompts holds all of them.
MAX_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Shots:
    """The examples of a job, of which every row draws `count`.

    `table` has the columns that are read. `fields` are those that the template prints, `content` those that a row has
    too, in the order of its content (empty if the examples lack one of them). `sha256` is that of the file.
    """

    count: int
    sha256: str
    fields: tuple[str, ...]
    content: tuple[str, ...]
    table: pa.Table = field(compare=False, repr=False)

    def draw(self, values: Sequence[Any], seed: int) -> list[dict[str, Any]]:
        """Draw the examples of a row with the content `values` and the 63-bit `seed`: all different, and none that has
        the row's content. Raises RowError if there are too few."""
        pool = _decode(self)
        own = pool.places.get(content_of(values), []) if self.content else []
        free = len(pool.rows) - len(own)
        if free < self.count:
            raise RowError(f"--examples has {free} rows besides this one, fewer than --shots {self.count}")
        return [pool.rows[index + bisect_right(own, index)] for index in choose(seed, free, self.count)]


def choose(seed: int, size: int, count: int) -> list[int]:
    """Choose `count` different numbers below `size`, in random order (Fisher and Yates, the first `count` steps)."""
    chosen: list[int] = []
    moved: dict[int, int] = {}
    for step in range(count):
        place = step + hash_63(f"shot {seed} {step}") % (size - step)
        chosen.append(moved.get(place, place))
        moved[place] = moved.get(step, step)
    return chosen


def load_shots(uri: str, data: bytes, count: int, template: PromptTemplate, columns: Mapping[str, str]) -> Shots:
    """Read the examples from `data`, the content of the file `uri`.

    `columns` are those of the input by the variables of the template. Raises InputError for a file that does not
    have what the template reads of an example, or fewer than `count` rows.
    """
    place = f"--examples {show_uri(uri)}"
    if len(data) > MAX_BYTES:
        raise InputError(
            f"{place} has {len(data) >> 20} MiB; at most {MAX_BYTES >> 20} are allowed, so give fewer rows"
        )
    table = parse_examples(uri, data)
    check_variable(template, EXAMPLES, pa.list_(pa.struct(list(table.schema))), what="the examples as")
    if table.num_rows < count:
        raise InputError(f"{place} has {table.num_rows} rows, fewer than --shots {count}")
    loops = [loop for loop in template.loops if loop.column == EXAMPLES]
    fields = tuple(dict.fromkeys(str(name) for loop in loops for name in loop.fields))
    content = tuple(columns.values()) if all(name in table.column_names for name in columns.values()) else ()
    shots = Shots(
        count,
        hashlib.sha256(data).hexdigest(),
        fields,
        content,
        table.select(list(dict.fromkeys((*fields, *content)))).replace_schema_metadata(),
    )
    for number, row in enumerate(_decode(shots).rows, start=1):
        for name, value in row.items():
            if value is None or isinstance(value, BrokenText):
                reason = "is null" if value is None else value.reason
                raise InputError(f"{place}, row {number}: column {name!r} {reason}; correct the row or remove it")
    return shots


@dataclass(frozen=True, slots=True)
class _Pool:
    """`places` has, by content, the places of the rows that have it, each less the number of those before it."""

    rows: list[dict[str, Any]]
    places: dict[str, list[int]]


@lru_cache(maxsize=2)
def _decode(shots: Shots) -> _Pool:
    def rows_of(names: Sequence[str]) -> list[dict[str, Any]]:
        values = [values_of(shots.table.column(name)) for name in names]
        return [{name: column[row] for name, column in zip(names, values, strict=True)} for row in range(num_rows)]

    num_rows = shots.table.num_rows
    places: dict[str, list[int]] = {}
    for place, row in enumerate(rows_of(shots.content) if shots.content else ()):
        same = places.setdefault(content_of(row[name] for name in shots.content), [])
        same.append(place - len(same))
    return _Pool(rows_of(shots.fields), places)
