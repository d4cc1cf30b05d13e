"""Runs deduplication on lists of texts, and does the same slowly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tirazh.pipeline.quality.dedup.config import DedupConfig
from tirazh.pipeline.quality.dedup.duplicates import Duplicates
from tirazh.pipeline.quality.dedup.minhash import equal_bytes_needed, minhash
from tirazh.pipeline.quality.dedup.side_file import SideFile, to_side_file
from tirazh.pipeline.quality.dedup.signatures import normalised_texts, signatures

NEAR = DedupConfig(columns=("completion",), near=0.8)
EXACT = DedupConfig(columns=("completion",), near=None)

# A dropped row: its index among all rows, the reason, and the index of the row that stays.
Dropped = dict[int, tuple[str, int]]


def write_parts(
    directory: Path, texts: Sequence[str | None], cuts: Sequence[int] = (), config: DedupConfig = NEAR
) -> list[SideFile]:
    """The side files of `texts`, cut into parts before the rows `cuts`."""
    bounds = [0, *sorted(cuts), len(texts)]
    files = []
    for part, (start, stop) in enumerate(pairwise(bounds)):
        path = directory / f"{part}.parquet"
        table = pa.table({"completion": pa.array(texts[start:stop], pa.string())})
        path.write_bytes(to_side_file(signatures(table, config), config))
        files.append(SideFile(part, str(path)))
    return files


def by_row(duplicates: Duplicates, cuts: Sequence[int] = ()) -> Dropped:
    """What was dropped, by indices among the rows of all parts."""
    starts = [0, *sorted(cuts)]
    result = {}
    for part, dropped in duplicates.parts.items():
        survivors = zip(dropped.survivor_parts.tolist(), dropped.survivor_rows.tolist(), strict=True)
        for row, reason, (other, other_row) in zip(dropped.rows.tolist(), dropped.names, survivors, strict=True):
            result[starts[part] + row] = (reason, starts[other] + other_row)
    return result


def slowly(texts: Sequence[str | None], eligible: Sequence[bool] | None = None, config: DedupConfig = NEAR) -> Dropped:
    """The rule itself: a row is dropped if an earlier row that stays has the same text or is near to it."""
    normal = normalised_texts(pa.table({"completion": pa.array(texts, pa.string())}), ["completion"])
    first: dict[str, int] = {}
    staying: list[tuple[int, Any]] = []
    result: Dropped = {}
    for row, text in enumerate(normal):
        if text is None or (eligible is not None and not eligible[row]):
            continue
        if text in first:
            original = first[text]
            result[row] = result.get(original, ("duplicate", original))
            continue
        first[text] = row
        if config.near is None or len(text) < 12:
            continue
        signature = minhash([text])[0].reshape(16, 7)
        near = (other for other, others in staying if _is_near(signature, others, config.near))
        survivor = next(near, None)
        if survivor is None:
            staying.append((row, signature))
        else:
            result[row] = ("near_duplicate", survivor)
    return result


def _is_near(one: Any, other: Any, least: float) -> bool:
    equal = one == other
    return bool(equal.all(axis=1).any() and equal.sum() >= equal_bytes_needed(least))


def run_backwards(function: Callable[[Any, Any], Any], shared: Any, items: Sequence[Any]) -> Iterator[Any]:
    """Run the tasks in the reverse order."""
    results = [function(shared, item) for item in reversed(items)]
    yield from reversed(results)


def mask(values: Sequence[bool]) -> Any:
    """`values` as an array."""
    return np.array(values, np.bool_)
