"""The text of `tirazh history`, `tirazh status OUTPUT` and `tirazh prune`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tirazh.jobs.progress import clock_text
from tirazh.pipeline.history.ages import age_text

if TYPE_CHECKING:
    from tirazh.pipeline.history.prune import Pruned
    from tirazh.pipeline.history.state import OutputStatus

_COLUMNS = ("begin (UTC)", "outcome", "rows", "errors", "took", "forecast", "host", "output")
_RIGHT = ("rows", "errors", "took", "forecast")
_SHOWN_SENTENCE = 200


def history_text(runs: Sequence[Mapping[str, Any]]) -> str:
    """A table of runs, one a line, with the sentence of a failure below it."""
    if not runs:
        return "no run is recorded"
    rows = [dict(zip(_COLUMNS, _cells(run), strict=True)) for run in runs]
    # Most runs have no forecast: only a run after others of its output, or after `plan --probe`, does.
    shown = [name for name in _COLUMNS if name != "forecast" or any(row[name] for row in rows)]
    width = {name: max(len(name), *(len(row[name]) for row in rows)) for name in shown}
    lines = ["  ".join(_cell(name, name, width) for name in shown).rstrip()]
    for row, run in zip(rows, runs, strict=True):
        lines.append("  ".join(_cell(name, row[name], width) for name in shown).rstrip())
        if run.get("sentence") and run.get("outcome") == "failure":
            lines.append(f"  {_printable(str(run['sentence']))[:_SHOWN_SENTENCE]}")
    return "\n".join(lines)


def status_facts(found: OutputStatus) -> dict[str, Any]:
    """The state of an output as names and values for people."""
    total = "" if found.rows_total is None else f" of {found.rows_total:,}"
    facts: dict[str, Any] = {"output": found.output, "state": found.state}
    if found.state != "missing":
        facts["rows"] = f"{found.rows_safe:,}{total} in finished parts"
    if found.last_success is not None and found.age_s is not None:
        facts["last success"] = f"{found.last_success} ({age_text(found.age_s)} ago)"
    if found.owner is not None:
        facts["running"] = found.owner
    if found.failure is not None:
        facts["failure"] = _printable(found.failure)
    if found.problem:
        facts["problem"] = _printable(found.problem)
    return facts


def pruned_text(found: Pruned, *, dry_run: bool) -> str:
    """One line about an output."""
    age = "" if found.age_s is None else f" ({age_text(found.age_s)} old)"
    if found.removed:
        return f"{'would remove' if dry_run else 'removed'} {found.output}{age}"
    return f"kept {found.output}{age}: {_printable(found.reason)}"


def _cells(run: Mapping[str, Any]) -> tuple[str, ...]:
    outcome = "running" if run.get("end") is None else str(run["outcome"])
    code = run.get("exit_code")
    shown = f"{outcome} ({code})" if code else outcome
    began = str(run["begin"])[:19].replace("T", " ")
    took = clock_text(float(run.get("seconds_wall") or 0.0)) if run.get("end") else "-"
    rows = f"{run.get('rows_made') or 0:,} of {run.get('rows_total') or 0:,}"
    errors, host = f"{run.get('errors') or 0:,}", str(run.get("host") or "")
    return tuple(map(_printable, (began, shown, rows, errors, took, _forecast(run), host, str(run["output"]))))


def _forecast(run: Mapping[str, Any]) -> str:
    """The forecast of the wall time, such as "0:20-0:45"; "" without one."""
    found = (run.get("predicted") or {}).get("time_s")
    return f"{clock_text(float(found[0]))}-{clock_text(float(found[1]))}" if found else ""


def _cell(name: str, text: str, width: Mapping[str, int]) -> str:
    return text.rjust(width[name]) if name in _RIGHT else text.ljust(width[name])


def _printable(text: str) -> str:
    """The text without control characters: the history is a file that others may have written."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
