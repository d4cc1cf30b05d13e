"""Plans with placed parts: how they are stored, and the parts that other plans placed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tirazh.pipeline.input.row_mask import RowMask
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.planned_files import Continued, PlacedPart

STEPS = ("append", "retry", "join")


def placed_parts(plan: Plan) -> tuple[PlacedPart, ...]:
    """The parts of a plan, each with the id of the plan that it was made for."""
    if plan.placed is not None:
        return tuple(each if each.plan_id else replace(each, plan_id=plan.id) for each in plan.placed)
    ranges = (
        (number, start, stop)
        for number, planned in enumerate(plan.files)
        for start, stop in zip(planned.cuts, planned.cuts[1:], strict=False)
    )
    total = len(plan.parts)
    return tuple(PlacedPart(index, total, plan.id, (each,)) for index, each in enumerate(ranges))


def placed_values(plan: Plan) -> dict[str, Any]:
    """What plan.json has of the placed parts of a plan, and of the plan that it continues."""
    assert plan.placed is not None
    masks = {str(number): each.left_out.to_json() for number, each in enumerate(plan.files) if each.left_out}
    return {
        "placed": [[each.index, each.total, each.plan_id, [list(one) for one in each.ranges]] for each in plan.placed],
        "left_out": masks,
        "continued": plan.continued and [plan.continued.plan_id, plan.continued.step],
    }


def with_placed(plan: Plan, values: Mapping[str, Any]) -> Plan:
    """Add what `placed_values` returned to a plan. Raises ValueError or TypeError for values that make no sense."""
    masks = {int(number): RowMask.from_json(each) for number, each in values["left_out"].items()}
    files = tuple(replace(each, left_out=masks.get(number)) for number, each in enumerate(plan.files))
    if any(each.left_out is not None and each.left_out.rows != each.cuts[-1] for each in files):
        raise ValueError("the rows that are left out are not those of their files")
    placed = tuple(
        PlacedPart(index, total, plan_id, tuple((number, start, stop) for number, start, stop in ranges))
        for index, total, plan_id, ranges in values["placed"]
    )
    indexes = [each.index for each in placed]
    if len(set(indexes)) < len(indexes) or not all(each.ranges for each in placed):
        raise ValueError("its parts contradict each other")
    for number, start, stop in (one for each in placed for one in each.ranges):
        if not 0 <= number < len(files) or not 0 <= start < stop <= files[number].cuts[-1]:
            raise ValueError("its parts are not of its files")
    continued = None if values["continued"] is None else Continued(*values["continued"])
    return replace(plan, files=files, placed=placed, continued=continued)
