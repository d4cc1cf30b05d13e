"""The labelled rows of `tirazh tune`, split into few-shot examples, search rows and held-out rows.

A row's place depends on the hash of its content and the seed alone, not on its place in the file. Every label has
about the same share in all three, and in the first n search rows for any n.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tirazh.errors import InputError, did_you_mean
from tirazh.pipeline.column_values import BrokenText, values_of
from tirazh.pipeline.input.listing.conversions import is_text_file
from tirazh.pipeline.input.listing.without_parquet import PARQUET_MAGIC
from tirazh.pipeline.input.repetitions import content_of
from tirazh.pipeline.input.schemas.arrow_types import take
from tirazh.pipeline.input.text_files.tables import parse_table
from tirazh.pipeline.storage.errors import show_uri

# Of each label: an example, some rows to search on, and some to hold out.
MIN_LABEL_ROWS = 8
MIN_HELD_OUT = 100
HELD_OUT_SHARE = 0.25
POOL_SHARE = 0.25
# More examples than this help `nearest` little, and the file of examples stays small.
MAX_POOL_ROWS = 400

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldRows:
    """Rows with a gold label: `table` has the columns of the prompts, `gold` is the index of the label, int64 [N].

    Rows that cannot be used are left out and counted by the reason in `removed`.
    """

    table: pa.Table
    gold: Ints
    removed: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Split:
    """Numbers of rows, int64 each: the examples, the search rows in the order in which they are used, and the held-out
    rows."""

    pool: Ints
    search: Ints
    held_out: Ints


def parse_gold(uri: str, data: bytes) -> pa.Table:
    """Parse the content of the labelled file. Raises InputError."""
    if is_text_file(uri) and not data.startswith(PARQUET_MAGIC):
        return parse_table(data, uri)
    try:
        return pq.read_table(io.BytesIO(data))
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"--gold {show_uri(uri)} is no Parquet, JSONL or CSV file that can be read: {error}"
        ) from error


def gold_rows(
    table: pa.Table,
    *,
    columns: Sequence[str],
    text_column: str,
    label_column: str,
    labels: Sequence[str],
    known_texts: Collection[str] = (),
) -> GoldRows:
    """Return the rows that can be used: with a text, with a gold label, and with a text that no earlier row has.

    `columns` are those of the prompts, `known_texts` the texts of the job's own examples: rows with one of them are
    left out. Raises InputError for a column that is missing, a gold label that the job does not have, and a label with
    too few rows.
    """
    for name, flag in ((label_column, "--gold-label"), *((name, "of the prompts") for name in columns)):
        if name not in table.column_names:
            hint = did_you_mean(name, table.column_names) or f"; its columns are {', '.join(table.column_names)}"
            raise InputError(f"the --gold file has no column {name!r} ({flag}){hint}")
    index = {label: number for number, label in enumerate(labels)}
    removed = dict.fromkeys(("without_label", "without_text", "repeated", "among_examples"), 0)
    seen: set[str] = set()
    kept: list[int] = []
    gold: list[int] = []
    texts, answers = values_of(table.column(text_column)), values_of(table.column(label_column))
    for row, (text, answer) in enumerate(zip(texts, answers, strict=True)):
        reason = _reason(text, answer, seen, known_texts)
        if reason is not None:
            removed[reason] += 1
            continue
        if str(answer) not in index:
            raise InputError(
                f"--gold, row {row + 1}: {answer!r} is not one of the labels {', '.join(labels)}"
                f"{did_you_mean(str(answer), labels)}"
            )
        seen.add(str(text).strip())
        kept.append(row)
        gold.append(index[str(answer)])
    _refuse_few(gold, labels, "")
    return GoldRows(table=take(table.select(list(columns)), kept), gold=np.array(gold, np.int64), removed=removed)


def take_rows(rows: GoldRows, count: int, *, seed: int, labels: Sequence[str]) -> GoldRows:
    """Return at most `count` rows, about the same share of each label.

    Raises InputError if a label is left with too few rows.
    """
    if len(rows.gold) <= count:
        return rows
    chosen = np.sort(_in_order(_hashes(rows, seed), rows.gold)[:count])
    gold = rows.gold[chosen]
    _refuse_few(gold.tolist(), labels, f" among --rows {count}; take more")
    return GoldRows(table=take(rows.table, chosen), gold=gold, removed=rows.removed)


def split_rows(rows: GoldRows, *, seed: int, pool: bool) -> Split:
    """Split the rows: a quarter of each label is held out, or more, so that 100 rows are; without `pool` there are no
    examples."""
    order = _in_order(_hashes(rows, seed), rows.gold)
    total = len(order)
    held = min(max(round(HELD_OUT_SHARE * total), MIN_HELD_OUT), total // 2)
    examples = min(round(POOL_SHARE * total), MAX_POOL_ROWS) if pool else 0
    # Of every label the first rows are examples, the last ones are held out.
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    for label in np.unique(rows.gold):
        own = [int(row) for row in order if rows.gold[row] == label]
        first = max(1, round(examples * len(own) / total)) if examples else 0
        last = len(own) - max(1, round(held * len(own) / total))
        for part, numbers in zip(parts, (own[:first], own[first:last], own[last:]), strict=True):
            part.extend(numbers)
    place = {int(row): number for number, row in enumerate(order)}
    pool_rows, search, held_out = (np.array(sorted(part, key=place.__getitem__), np.int64) for part in parts)
    return Split(pool_rows, search, held_out)


def _reason(text: Any, answer: Any, seen: Collection[str], known: Collection[str]) -> str | None:
    """Why a row cannot be used; None if it can."""
    if answer is None or isinstance(answer, BrokenText) or not str(answer).strip():
        return "without_label"
    if text is None or isinstance(text, BrokenText) or not str(text).strip():
        return "without_text"
    if str(text).strip() in known:
        return "among_examples"
    return "repeated" if str(text).strip() in seen else None


def _refuse_few(gold: Sequence[int], labels: Sequence[str], where: str) -> None:
    counts = np.bincount(gold, minlength=len(labels)) if gold else np.zeros(len(labels), np.int64)
    few = [f"{label!r} has {count}" for label, count in zip(labels, counts, strict=True) if count < MIN_LABEL_ROWS]
    if few:
        raise InputError(
            f"every label needs at least {MIN_LABEL_ROWS} labelled rows with different texts, but {', '.join(few[:5])}"
            f"{where}"
        )


def _hashes(rows: GoldRows, seed: int) -> list[bytes]:
    columns = [values_of(column) for column in rows.table.columns]
    return [
        hashlib.sha256(f"{seed}\n{content_of(values)}".encode("utf-8", "surrogatepass")).digest()
        for values in zip(*columns, strict=True)
    ]


def _in_order(hashes: Sequence[bytes], gold: Ints) -> Ints:
    """The rows by hash, with the labels spread: any first n rows have each label about as often as all rows."""
    by_hash = sorted(range(len(hashes)), key=lambda row: hashes[row])
    totals = np.bincount(gold)
    before = np.zeros(len(totals), np.int64)
    place: dict[int, float] = {}
    for row in by_hash:
        place[row] = (before[gold[row]] + 0.5) / totals[gold[row]]
        before[gold[row]] += 1
    return np.array(sorted(by_hash, key=lambda row: (place[row], hashes[row])), np.int64)
