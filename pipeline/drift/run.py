"""Writes the report of an output with its comparison, and evaluates the conditions of --fail-on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tirazh.errors import InputError, OutputError, StorageError
from tirazh.pipeline.drift.baselines import open_baselines
from tirazh.pipeline.drift.compare import compare
from tirazh.pipeline.drift.conditions import Condition, Outcome, check_baselines, evaluate
from tirazh.pipeline.drift.section import render_comparison
from tirazh.pipeline.output.names import FAILURE, OutputFiles
from tirazh.pipeline.output.report import write_report
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage, is_remote


@dataclass(frozen=True, kw_only=True, slots=True)
class Reported:
    """A written report: its URI `page`, the JSON `values` of the comparison, empty for a job that is not finished, and
    the `outcomes` of the conditions."""

    page: str
    values: dict[str, Any]
    outcomes: tuple[Outcome, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON values: `report`, those of the comparison, and `fail_on`."""
        outcomes = {"fail_on": [each.to_dict() for each in self.outcomes]} if self.outcomes else {}
        return {"report": self.page, **self.values, **outcomes}

    @property
    def failure(self) -> str | None:
        """A sentence about the conditions that hold; None if none does."""
        held = [f"{each.condition.text} holds: {each.sentence}" for each in self.outcomes if each.holds]
        return f"--fail-on {'; '.join(held)}" if held else None


def report_output(
    output: str,
    *,
    against: Sequence[str] = (),
    conditions: Sequence[Condition] = (),
    key: str | None = None,
    endpoint_url: str | None = None,
    with_figures: bool = False,
) -> Reported:
    """Write the report of a job, with a comparison with the outputs `against`, and evaluate `conditions`.

    `against` are directories, or patterns of them; `key` names the column by which a row is found in them.
    `with_figures` reads the figures of the output also if nothing is compared. The report is written before the
    conditions are evaluated. Raises OutputError for what is not the output of a finished job, and for an output among
    its own baselines; RequestError for a condition that cannot be evaluated.
    """
    check_baselines(conditions, against)
    storage = Storage(endpoint_url)
    try:
        is_needed = bool(against or conditions)
        values = _values(output, against, storage, key, is_needed) if is_needed or with_figures else {}
    except StorageError as error:
        if endpoint_url is not None or not any(is_remote(each) for each in (output, *against)):
            raise
        raise StorageError(f"{error}; give --endpoint-url if it is on an S3-compatible server") from error
    section = render_comparison(values) if values and against else None
    page = write_report(output, comparison=section, endpoint_url=endpoint_url)
    outcomes = evaluate(conditions, values) if conditions else []
    return Reported(page=page, values=values, outcomes=tuple(outcomes))


def _values(output: str, against: Sequence[str], storage: Storage, key: str | None, is_needed: bool) -> dict[str, Any]:
    """The JSON values of the comparison; none of a job that is not finished, unless they are needed."""
    files = OutputFiles.at(output, storage)
    if FAILURE in storage.names(files.own()):
        if is_needed:
            raise OutputError(
                f"{show_uri(files.directory)} is not finished, so it cannot be compared; run its job again first"
            )
        return {}
    try:
        return compare(open_baselines(output, against, storage), key=key)
    except (InputError, OutputError):
        if is_needed:
            raise
        return {}
