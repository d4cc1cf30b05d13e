"""The result of a search as text: the best trial of each prompt setting, and the figures on held-out rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_MOST_PROMPTS = 12
_COLUMNS = ("template", "shots", "scoring", "calibrate", "rows", "value", "95 % interval", "tokens")
_NUMBERS = ("shots", "rows", "value", "tokens")


def tune_text(facts: Mapping[str, Any]) -> str:
    """Return the content of the table of trials as text for a terminal."""
    from tirazh.pipeline.tuning.facts import held_out_lines

    trials, tokens, rows = facts["trials"], facts["tokens"], facts["rows"]
    best: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for trial in trials:
        best.setdefault((trial["template"], trial["shots"], trial.get("shot_selection")), trial)
    shown = [_cells(trial) for trial in list(best.values())[:_MOST_PROMPTS]]
    lines = _table([dict(zip(_COLUMNS, _COLUMNS, strict=True)) | {"value": facts["metric"]}, *shown])
    lines.append(
        f"the best variant of {len(shown)} prompt settings; all {len(trials)} trials: {facts['files']['table']}"
    )
    if facts["not_tried"]:
        first = facts["not_tried"][0]
        lines.append(f"{len(facts['not_tried'])} prompt settings were not tried; the first: {first['reason']}")
    if not facts["is_complete"]:
        lines.append("the token budget ended the search before all rows were used")
    lines += ["", f"on {rows['held_out']} held-out rows, which no trial saw:"]
    lines += [f"  {line}" for line in held_out_lines(facts["held_out"])]
    lines += ["", f"{tokens['used']:,} of {tokens['budget']:,} tokens; run `tirazh run {facts['files']['job']}`"]
    return "\n".join(lines)


def _cells(trial: Mapping[str, Any]) -> dict[str, str]:
    selection = trial.get("shot_selection", "balanced")
    shots = "given" if trial["shots"] is None else str(trial["shots"])
    low, high = trial["interval"]
    return {
        "template": trial["template"],
        "shots": shots if selection == "balanced" else f"{shots} {selection}",
        "scoring": trial["scoring"],
        "calibrate": trial["calibrate"],
        "rows": str(trial["rows"]),
        "value": f"{trial['value']:.3f}",
        "95 % interval": f"{low:.3f} to {high:.3f}",
        "tokens": f"{trial['tokens']:,}",
    }


def _table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    widths = {name: max(len(row[name]) for row in rows) for name in _COLUMNS}
    return [
        "  ".join(
            row[name].rjust(widths[name]) if name in _NUMBERS else row[name].ljust(widths[name]) for name in _COLUMNS
        ).rstrip()
        for row in rows
    ]
