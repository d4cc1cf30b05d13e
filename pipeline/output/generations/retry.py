"""`--retry-failed`: the plan that answers the rows with an error again, and what is read of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tirazh.errors import JobError
from tirazh.pipeline import schema
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.input.row_mask import RowMask
from tirazh.pipeline.output.generations.placed import placed_parts
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.receipt import Receipt
from tirazh.pipeline.output.rows.failed_rows import failed_input_rows
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.planned_files import Continued
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import keep_trying


@dataclass(frozen=True, slots=True)
class FailedParts:
    """The parts to make of a retry, and by their numbers the URIs of the part files that they replace."""

    parts: list[Part]
    replaced: dict[int, str]


def plan_retry(base: Plan, receipts: Mapping[int, Receipt]) -> Plan | None:
    """The plan in which the parts with an error are made again; None if there are none.

    `receipts` are those of all parts of `base`, by their numbers.
    """
    failed = {index for index, receipt in receipts.items() if receipt.errors}
    if not failed:
        return None
    placed = tuple(replace(each, plan_id="") if each.index in failed else each for each in placed_parts(base))
    return replace(base, placed=placed, continued=Continued(base.id, "retry"), stored_id=None)


def failed_parts(base: Plan, plan: Plan, output: OutputFiles, parts: Sequence[Part]) -> FailedParts:
    """What has to be made of `parts`, which are of the retry `plan` of `base`, the plan of `output`.

    A part is read from its file in the output, which has the columns of the input: so it does not matter whether the
    input is still there. Of the samples of a row the first one is read.
    """
    made, replaced = [], {}
    for part in parts:
        uri = output.part(base.part_of_index[part.index].name)
        found = [file for file in keep_trying(partial(output.storage.walk, uri)) if file.uri == uri]
        if not found:
            raise JobError(f"{show_uri(uri)} was removed while the job ran; run the same command again")
        each, name = plan.rows_per_input_row, plan.identity["prefix"] + schema.ERROR
        data = keep_trying(partial(output.storage.read, uri))
        failed = failed_input_rows(pq.read_table(pa.BufferReader(data), columns=[name]).column(0), each)
        is_read = np.zeros(len(failed) * each, np.bool_)
        is_read[::each] = failed
        left_out = None if is_read.all() else RowMask.of(~is_read)
        own = Part(part.index, part.total, found[0], 0, len(is_read), part.plan_id, left_out=left_out)
        made.append(replace(own, failed_rows=RowMask.of(failed)))
        replaced[part.index] = uri
    return FailedParts(made, replaced)
