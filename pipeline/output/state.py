"""What is finished in an output, found from its files: intact parts, parts without a receipt, damaged parts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tirazh.errors import InputError
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.output.changed_input import compare_part
from tirazh.pipeline.output.guarded import GuardedOutput
from tirazh.pipeline.output.names import OutputFiles, receipt_name
from tirazh.pipeline.output.receipt import Receipt, ReceiptSettings, check_belongs, make_receipt
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.storage.filesystem import keep_trying

# Receipts are small, so reading them from an object store is bound by latency, not by bandwidth.
THREADS = 16
# Each of these threads holds a whole part file in memory.
FILE_THREADS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputState:
    """The parts of a plan in an output.

    `receipts` are those of the intact parts, by index. Those in `unsaved` have to be written: the stored one
    is missing, damaged, or counts another gold column. `damaged` are names of part files that are not what
    their receipt says, not complete files, or made from other input rows. `orphaned` are names of parts that
    have a receipt and no file. `remaining` are the parts to make, in order: damaged or without a file.
    `rescored` is the number of unsaved receipts that replace one with another gold column.
    """

    receipts: dict[int, Receipt]
    unsaved: tuple[int, ...]
    damaged: tuple[str, ...]
    orphaned: tuple[str, ...]
    remaining: list[Part]
    rescored: int

    @property
    def rows(self) -> int:
        """The rows of the intact parts."""
        return sum(receipt.rows for receipt in self.receipts.values())

    @property
    def errors(self) -> int:
        """The rows of the intact parts that have an error."""
        return sum(receipt.errors for receipt in self.receipts.values())

    @property
    def tokens(self) -> tuple[int, int]:
        """The tokens of prompts and of completions in the intact parts."""
        receipts = self.receipts.values()
        return sum(each.prompt_tokens for each in receipts), sum(each.completion_tokens for each in receipts)

    @property
    def is_whole(self) -> bool:
        """Whether every part is intact and has its receipt."""
        return not (self.remaining or self.unsaved)


def survey(plan: Plan, output: OutputFiles, settings: ReceiptSettings) -> OutputState:
    """Find what is finished. Takes two listings, and reads the receipts and the parts without a valid one.

    Writes nothing. The files of other plans do not count.
    """
    sizes, receipts = keep_trying(output.parts), keep_trying(output.receipts)
    existing = [part for part in plan.parts if part.name in sizes]
    stored = dict(_each(lambda part: _read_receipt(part, plan, output, receipts), existing, THREADS))
    found: dict[int, Receipt] = {}
    damaged, unclear = [], []
    for part in existing:
        receipt = stored[part]
        if receipt is not None and receipt.file_bytes != sizes[part.name]:
            damaged.append(part)
        elif receipt is not None and not _has_current_rows(receipt, part, plan, output):
            damaged.append(part)
        elif receipt is not None and receipt.gold_columns == settings.gold_columns:
            found[part.index] = receipt
        else:
            unclear.append(part)
    made = _each(lambda part: _make_receipt(part, plan, output, settings, stored[part]), unclear, FILE_THREADS)
    unsaved = {part.index: receipt for part, receipt in made if receipt is not None}
    damaged += [part for part, receipt in made if receipt is None]
    found |= unsaved
    return OutputState(
        receipts=found,
        unsaved=tuple(sorted(unsaved)),
        damaged=tuple(sorted(part.name for part in damaged)),
        orphaned=tuple(
            part.name for part in plan.parts if part.name not in sizes and receipt_name(part.name) in receipts
        ),
        remaining=[part for part in plan.parts if part.index not in found],
        rescored=sum(stored[part] is not None for part in unclear if part.index in unsaved),
    )


def repair(state: OutputState, plan: Plan, output: GuardedOutput) -> None:
    """Remove damaged parts and receipts without a part, and write the receipts that are missing.

    Then every part file of the plan is intact and has its receipt. A part is removed before its receipt: if
    this ends in between, the receipt has no part, and is removed by the next run.
    """
    files = output.files

    def remove(name: str) -> None:
        output.remove(files.part(name))
        output.remove(files.receipt(name))

    def save(index: int) -> None:
        output.write(files.receipt(plan.part_of_index[index].name), state.receipts[index].to_json())

    _each(remove, state.damaged, THREADS)
    _each(lambda name: output.remove(files.receipt(name)), state.orphaned, THREADS)
    _each(save, state.unsaved, THREADS)


def _each(action: Callable[[Any], Any], items: Sequence[Any], threads: int) -> list[tuple[Any, Any]]:
    """(item, result) of the action for every item, in order; several items at once."""
    if len(items) < 2:
        return [(item, action(item)) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(zip(items, pool.map(action, items), strict=True))


def _read_receipt(part: Part, plan: Plan, output: OutputFiles, names: Collection[str]) -> Receipt | None:
    """The stored receipt of a part; None if it is missing, damaged or that of another part."""
    if receipt_name(part.name) not in names:
        return None
    try:
        receipt = Receipt.from_json(keep_trying(lambda: output.storage.read(output.receipt(part.name))))
        check_belongs(receipt, part=part.index, rows=plan.output_rows_of(part), plan_id=part.plan_id)
    except (InputError, ValueError, KeyError, TypeError):
        return None
    return receipt


def _has_current_rows(receipt: Receipt, part: Part, plan: Plan, output: OutputFiles) -> bool:
    """Whether a part was made from the present version of its input file, or from the same rows."""
    # A file that was delivered again has other rows now, all of which may be in the output.
    if receipt.input_version == part.input_version or any(plan.is_superseded(each.file) for each in part.ranges):
        return True
    try:
        data = keep_trying(lambda: output.storage.read(output.part(part.name)))
        return compare_part(part, plan, output.storage, data) is None
    except InputError:  # the input file was archived after its parts were finished
        return True


def _make_receipt(
    part: Part, plan: Plan, output: OutputFiles, settings: ReceiptSettings, stored: Receipt | None
) -> Receipt | None:
    """The receipt of a part from its file; None if the file is damaged, or not that of the stored receipt."""
    try:
        receipt = make_receipt(keep_trying(lambda: output.storage.read(output.part(part.name))), settings)
        check_belongs(receipt, part=part.index, rows=plan.output_rows_of(part), plan_id=part.plan_id)
    except (InputError, ValueError):
        return None
    return receipt if stored is None or stored.sha256 == receipt.sha256 else None
