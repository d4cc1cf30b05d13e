"""The final rows of `accepted`: the first accepted attempts of every cell, and the cells that fall short."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.quality.dedup.duplicates import Duplicates
from tirazh.pipeline.spec import Accepted
from tirazh.pipeline.steps.accepted.cells import CellRows, cell_files, cell_slices
from tirazh.pipeline.steps.accepted.rounds import Progress, Round, Slice
from tirazh.pipeline.steps.filtering.plan import LAYOUT, plan_filter
from tirazh.pipeline.steps.filtering.source import read_file, source_files
from tirazh.pipeline.storage.errors import show_uri

_PART_ROWS = 4_096
_NAMED = 20
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class FinalRows:
    """The plan of the final parts, and the slices of the rounds that each is made of."""

    plan: Plan
    slices: list[tuple[Slice, ...]]


def plan_final(identity: Mapping[str, Any], rounds: Sequence[Round], accepted: Accepted, per_part: int) -> FinalRows:
    """Plan the final parts of `rounds`, with the rows of `per_part` cells in each."""
    slices = cell_slices(rounds, per_part)
    first = rounds[0]
    columns = read_file(source_files(first.manifest, first.output)[0].file, first.output.storage).schema
    layout = {LAYOUT: {"accepted": accepted.rows, "cells_per_part": per_part}}
    return FinalRows(plan_filter({**identity, **layout}, columns, first.manifest, cell_files(slices)), slices)


def choose_cells_per_part(stored: Plan | None, accepted: Accepted, part_rows: int | None) -> int:
    """The number of cells in a final part: that of the stored plan, or about `part_rows` accepted rows."""
    layout = stored.identity.get(LAYOUT) if stored is not None else None
    if layout is not None and layout["accepted"] == accepted.rows:
        return int(layout["cells_per_part"])
    return max(1, (part_rows or _PART_ROWS) // accepted.rows)


def items_of(final: FinalRows, parts: Sequence[Any], duplicates: Duplicates, accepted: Accepted) -> list[CellRows]:
    """What the tasks of the final parts `parts` need."""
    items = []
    for part in parts:
        slices = final.slices[part.index]
        named: dict[tuple[int, int], str] = {}
        for each in slices:
            dropped = duplicates.of(each.part)
            within = (dropped.rows >= each.start) & (dropped.rows < each.stop)
            names = dropped.names
            named |= {(each.part, int(dropped.rows[index])): names[index] for index in np.flatnonzero(within)}
        items.append(CellRows(part, slices, named, accepted.rows))
    return items


def describe_cells(rounds: Sequence[Round], progress: Progress, accepted: Accepted) -> dict[str, Any]:
    """Facts for the manifest: attempts, and the cells with fewer accepted rows than wanted."""
    short = np.flatnonzero(progress.accepted < accepted.rows)
    crossing = rounds[0].crossing
    return {
        "rounds": len(rounds),
        "attempts": int(progress.attempted.sum()),
        "cells": crossing.num_cells,
        "num_short_cells": len(short),
        "short_cells": [
            {
                "values": crossing.cell_values(int(cell)),
                "accepted": int(progress.accepted[cell]),
                "attempts": int(progress.attempted[cell]),
                "reasons": dict(progress.reasons.get(int(cell), Counter()).most_common(_SHOWN)),
            }
            for cell in short[:_NAMED]
        ],
    }


def shortage(manifest: Mapping[str, Any], accepted: Accepted, output: OutputFiles) -> str | None:
    """A sentence about the cells that fall short; None if all have enough rows."""
    number = manifest.get("num_short_cells", 0)
    if not number:
        return None
    named = "; ".join(map(_describe, manifest["short_cells"][:_SHOWN]))
    more = "; …" if number > _SHOWN else ""
    return (
        f"{number:,} of {manifest['cells']:,} cells have fewer than {accepted.rows:,} accepted rows after "
        f"{accepted.rows * accepted.max_attempts:,} attempts: {named}{more}. All rows are written to "
        f"{show_uri(output.directory)}; to continue, run the job again with a higher max_attempts, or change "
        "filters or prompts and use another output"
    )


def _describe(cell: Mapping[str, Any]) -> str:
    values = ", ".join(f"{name}={value}"[:60] for name, value in cell["values"].items())
    failed = max(1, cell["attempts"] - cell["accepted"])
    reasons = ", ".join(f"{reason} {count / failed:.0%}" for reason, count in cell["reasons"].items())
    return f"{values} has {cell['accepted']:,}{f' ({reasons})' if reasons else ''}"
