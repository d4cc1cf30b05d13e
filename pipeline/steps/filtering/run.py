"""Runs a filter step: makes the parts that are missing, and completes the output.

The part files, `_SUCCESS` and the lease follow the same rules as those of a job with a model
(docs/commit-protocol.md). A part is finished when it has its receipt and the files that it names.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from tirazh.errors import InputError
from tirazh.pipeline.execution.metrics import ProgressEvent
from tirazh.pipeline.execution.progress import OnProgress
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.output.guarded import GuardedOutput
from tirazh.pipeline.output.names import JUDGED, SIGNATURES, OutputFiles
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.quality.dedup.duplicates import Duplicates
from tirazh.pipeline.quality.dedup.find import find_duplicates
from tirazh.pipeline.quality.dedup.side_file import SideFile
from tirazh.pipeline.quality.dedup.tasks import Run, is_ray_connected, run_here, run_on_ray
from tirazh.pipeline.steps.filtering.files import dropped_directory, judged_file
from tirazh.pipeline.steps.filtering.part import FilterConfig, judge_part, write_part
from tirazh.pipeline.steps.filtering.receipt import FilterReceipt
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


MakeParts = Callable[[Run], Iterator[FilterReceipt]]


def part_writer(plan: Plan, state: FilterState, config: FilterConfig) -> MakeParts:
    """Judges and writes the remaining parts, each of one part of the step before."""

    def make(run: Run) -> Iterator[FilterReceipt]:
        duplicates = _find_duplicates(plan, config)
        yield from run(write_part, config, [(part, _reasons(duplicates, part)) for part in state.remaining])

    return make


def run_parts(
    plan: Plan,
    state: FilterState,
    on_progress: OnProgress | None,
    make: MakeParts,
) -> tuple[list[FilterReceipt], float]:
    """Make the remaining parts. Returns the receipts of all parts, in order, and the seconds that it took.

    `make` yields the receipts of the remaining parts; it gets what runs tasks.
    """
    start = time.monotonic()
    receipts = dict(state.receipts)
    resumed = sum(receipt.input_rows for receipt in receipts.values())

    def report() -> None:
        if on_progress is not None:
            on_progress(_event(plan, receipts, resumed, time.monotonic() - start))

    report()
    if state.remaining:
        for receipt in make(run_on_ray if is_ray_connected() else run_here):
            receipts[receipt.part] = receipt
            report()
    return [receipts[part.index] for part in plan.parts], time.monotonic() - start


def remove_judged(plan: Plan, output: GuardedOutput) -> None:
    """Remove the intermediate files of a finished step."""
    for part in plan.parts:
        output.remove(judged_file(output.files, part.name))


def _find_duplicates(plan: Plan, config: FilterConfig) -> Duplicates:
    """Judge all parts that are not judged yet, find the rows that are duplicates, and store their list."""
    if config.rules is None or config.rules.dedup is None:
        return Duplicates({})
    output, storage = config.output, config.output.storage
    judge_parts(plan, config)
    side_files = [SideFile(part.index, output.signatures(part.name)) for part in plan.parts]
    found = find_duplicates(side_files, config.rules.dedup, storage=storage, against=config.rules.against)
    config.guarded.write(output.duplicates, found.to_bytes())
    return found


def judge_parts(plan: Plan, config: FilterConfig) -> None:
    """Judge the parts that are not judged yet."""
    output, storage = config.output, config.output.storage
    done = set(keep_trying(lambda: storage.names(output.own(JUDGED))))
    if config.rules is not None and config.rules.dedup is not None:
        done &= keep_trying(lambda: storage.names(output.own(SIGNATURES))).keys()
    run: Run = run_on_ray if is_ray_connected() else run_here
    for _ in run(judge_part, config, [part for part in plan.parts if part.name not in done]):
        pass


def _reasons(duplicates: Duplicates, part: Part) -> dict[int, str]:
    """Why rows of a part are duplicates, by their numbers."""
    dropped = duplicates.of(part.index)
    return dict(zip(dropped.rows.tolist(), dropped.names, strict=True))


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
        rows_safe=sum(receipt.input_rows for receipt in receipts.values()),
    )
