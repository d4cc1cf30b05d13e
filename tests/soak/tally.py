"""Formats the results of all jobs as one table."""

from __future__ import annotations

import platform
from collections.abc import Sequence

from tests.soak.drive import JobReport, Outcome
from tests.soak.faults import KINDS
from tests.soak.job import COMPILER_S, HANG_S, KERNELS

_HEAD = (
    "kind",
    "faults",
    "resumes",
    "expected",
    "found",
    "doubled",
    "lost",
    "different",
    "mixed",
    "falsely killed",
    "hangs",
    "recovery",
    "unfinished",
    "unwritten",
)


def is_good(reports: Sequence[JobReport]) -> bool:
    """Whether every job was compared and none has a flaw."""
    return all(report.comparison is not None and not report.flaws for report in reports)


def table(reports: Sequence[JobReport], *, seed: int, minutes: float, planned: int) -> str:
    """Return the result as Markdown."""
    lines = ["| " + " | ".join(_HEAD) + " |", "|---|" + "---:|" * (len(_HEAD) - 1)]
    for kind in KINDS:
        mine = [report for report in reports if any(outcome.fault.kind == kind for outcome in report.outcomes)]
        if mine:
            lines.append(_line(kind, mine, [o for r in mine for o in r.outcomes if o.fault.kind == kind]))
    outcomes = [outcome for report in reports for outcome in report.outcomes]
    lines.append(_line("**all**", reports, outcomes))
    flaws = [f"- {report.job.name}: {flaw}" for report in reports for flaw in report.flaws]
    return "\n".join(
        [
            f"Seed {seed}, {len(outcomes)} of {planned} faults, {len(reports)} jobs, {minutes:.0f} min, "
            f"{platform.machine()}, Python {platform.python_version()}.",
            "",
            *lines,
            "",
            f"Hang: {HANG_S:g} s without a part or an end; {HANG_S + KERNELS * COMPILER_S:g} s with a slow compiler.",
            "Rows are those of the jobs in which the kind occurred; a job has several kinds, so that rows of kinds do",
            "not add up to those of all. Mixed: rows in parts of another plan than the output's. Falsely killed:",
            "replicas that died in jobs whose faults kill none. Recovery: the longest time in s from the fault (of an",
            "outage: from its end) to the next part. Unfinished, unwritten: the most parts that a command had started",
            "and not answered, or answered and not written, when it was ended: a resumed run makes them again.",
            "",
            "Flaws:" if flaws else "No flaws.",
            *flaws,
        ]
    )


def _line(kind: str, reports: Sequence[JobReport], outcomes: Sequence[Outcome]) -> str:
    compared = [report.comparison for report in reports if report.comparison is not None]
    cells = [
        kind,
        len(outcomes),
        sum(outcome.resumed for outcome in outcomes),
        sum(report.job.rows for report in reports),
        sum(each.found for each in compared),
        sum(each.duplicates for each in compared),
        sum(each.lost for each in compared),
        sum(each.different for each in compared),
        sum(each.mixed for each in compared),
        sum(report.falsely_killed for report in reports),
        sum(outcome.stuck for outcome in outcomes),
        f"{max((outcome.recovery_s for outcome in outcomes), default=0):.1f}",
        _most([outcome.unfinished for outcome in outcomes]),
        _most([outcome.unwritten for outcome in outcomes]),
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def _most(values: Sequence[int | None]) -> str:
    known = [value for value in values if value is not None]
    return str(max(known)) if known else ""
