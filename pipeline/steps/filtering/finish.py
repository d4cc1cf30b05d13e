"""The end of a filter step: its manifest, its report and `_SUCCESS`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.output.guarded import GuardedOutput
from tirazh.pipeline.output.ledger import read_manifest
from tirazh.pipeline.output.names import FAILURE, MANIFEST, REPORT
from tirazh.pipeline.output.report import pages_of
from tirazh.pipeline.output.seal import to_sealed_json
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.steps.filtering.receipt import FilterReceipt
from tirazh.pipeline.storage.filesystem import keep_trying

_PART_FACTS = ("rows", "errors", "input_rows", "file_bytes", "sha256", "dropped_bytes", "dropped_sha256")


def describe_filtered(plan: Plan, receipts: Sequence[FilterReceipt]) -> dict[str, Any]:
    """The values of the manifest that follow from the plan and the receipts of all its parts."""
    return {
        "rows": sum(receipt.rows for receipt in receipts),
        "input_rows": sum(receipt.input_rows for receipt in receipts),
        "kept": sum(receipt.input_rows - len(receipt.not_kept) for receipt in receipts),
        "dropped_rows": sum(len(receipt.not_kept) for receipt in receipts),
        "errors": sum(receipt.errors for receipt in receipts),
        "drop_reasons": add_counts(receipt.reasons for receipt in receipts),
        "masked": add_counts(receipt.masked for receipt in receipts),
        "num_parts": len(receipts),
        "dtype": plan.dtype,
        "plan_id": plan.id,
        "fingerprint": plan.fingerprint,
        "model_fingerprint": plan.model_fingerprint,
        "parts": [_describe_part(part, receipt) for part, receipt in zip(plan.parts, receipts, strict=True)],
    }


def finish_filtered(output: GuardedOutput, plan: Plan, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Write the report, the manifest and `_SUCCESS`, in this order, and return the manifest."""
    files = output.files
    if FAILURE in keep_trying(lambda: files.storage.names(files.own())):
        output.remove(files.own(FAILURE))
    for name, page in pages_of(manifest, files).items():
        output.write(files.own(name), page)
    output.write(files.own(MANIFEST), to_sealed_json(manifest))
    output.mark_complete(plan.id)
    return dict(manifest)


def finished_filter(plan: Plan, output: GuardedOutput) -> dict[str, Any] | None:
    """The manifest of a complete output of `plan`, else None. The files are looked at elsewhere (`survey_filtered`)."""
    if keep_trying(output.files.completed_plan) != plan.id:
        return None
    manifest = keep_trying(lambda: read_manifest(output.files))
    has_report = REPORT in keep_trying(lambda: output.files.storage.names(output.files.own()))
    return manifest if manifest is not None and manifest.get("plan_id") == plan.id and has_report else None


def _describe_part(part: Part, receipt: FilterReceipt) -> dict[str, Any]:
    facts = {name: value for name, value in asdict(receipt).items() if name in _PART_FACTS}
    return {"name": part.name, "input": part.file.key, "dropped_rows": len(receipt.not_kept)} | facts


def add_counts(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The sums by name, the largest first."""
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(total.most_common())
