"""Facts about an output that is not finished: what is there so far, and why the last run failed."""

from __future__ import annotations

import json
from typing import Any

from tirazh.errors import InputError
from tirazh.pipeline.output.names import FAILURE, OutputFiles
from tirazh.pipeline.output.quality import quality
from tirazh.pipeline.output.receipt import Receipt
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.storage.errors import show_uri

_COUNTS = ("rows", "rows_total", "num_parts", "parts_total", "errors")


def describe_unfinished(plan: Plan, output: OutputFiles) -> dict[str, Any]:
    """What is finished so far, from the receipts; those that cannot be read are left out."""
    existing, receipts = output.parts(), []
    for part in plan.parts:
        if part.name in existing:
            try:
                receipts.append(Receipt.from_json(output.storage.read(output.receipt(part.name))))
            except (InputError, ValueError, KeyError, TypeError):
                continue
    return {
        "kind": plan.identity["kind"],
        "output": show_uri(output.directory),
        "plan_id": plan.id,
        "rows": sum(receipt.rows for receipt in receipts),
        "rows_total": plan.output_rows,
        "num_parts": len(receipts),
        "parts_total": len(plan.parts),
        "errors": sum(receipt.errors for receipt in receipts),
        **quality(receipts),
        "spec": plan.identity,
    }


def read_failure(output: OutputFiles) -> dict[str, Any] | None:
    """What the last run recorded when it failed (`failure.py`), or None if there is nothing of that kind."""
    try:
        facts = json.loads(output.storage.read(output.own(FAILURE)))
        is_complete = isinstance(facts["reason"], str) and all(isinstance(facts[name], int) for name in _COUNTS)
        mappings = (facts["spec"], facts.get("error_kinds", {}), facts.get("labels", {}), facts.get("questions", {}))
        is_complete = is_complete and all(isinstance(each, dict) for each in mappings) and "kind" in facts
    except (InputError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return facts if is_complete and "output" in facts else None
