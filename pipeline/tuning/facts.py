"""What a search found as JSON values, and as the comment of the job file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tirazh.pipeline.tuning.budget import TokenBudget
from tirazh.pipeline.tuning.labelled_file import LabelledFile
from tirazh.pipeline.tuning.search import Found, held_out_facts
from tirazh.pipeline.tuning.settings import TuneSettings
from tirazh.pipeline.tuning.space import PromptChoice
from tirazh.pipeline.tuning.trials import Trial


def found_facts(
    found: Found,
    settings: TuneSettings,
    budget: TokenBudget,
    data: LabelledFile,
    refused: Mapping[PromptChoice, str],
) -> dict[str, Any]:
    """JSON values: the figures of the winner and of the job as given, and all trials, the best first."""
    not_tried = [{**prompt.to_dict(), "reason": reason} for prompt, reason in refused.items()]
    too_long = "the held-out rows alone would take too many of the tokens"
    not_tried += [{**prompt.to_dict(), "reason": too_long} for prompt in found.too_long]
    return {
        "gold": settings.gold,
        "metric": settings.metric,
        "seed": settings.seed,
        "rows": data.counts(),
        "tokens": {"budget": budget.limit, "used": budget.used},
        "is_complete": found.is_complete,
        "winner": _with_template(found.winner),
        "baseline": _with_template(found.baseline),
        "held_out": held_out_facts(found.held_out),
        "trials": [trial.to_dict() for trial in ordered(found, settings)],
        "templates": _templates(found),
        "not_tried": not_tried,
    }


def ordered(found: Found, settings: TuneSettings) -> list[Trial]:
    """The trials, those that came furthest first, then by the metric."""
    sign = 1 if settings.metric == "log_loss" else -1
    return sorted(found.trials, key=lambda trial: (trial is not found.winner, -trial.rung, sign * trial.value))


def header_of(facts: Mapping[str, Any]) -> list[str]:
    """The lines of the comment in the job file."""
    held_out, rows, metric = facts["held_out"], facts["rows"], facts["metric"]
    lines = [
        f"Found by `tirazh tune` on {facts['gold']} (seed {facts.get('seed')}); comments are lost.",
        f"Chosen by {metric} on {facts['winner']['rows']} search rows; {facts['tokens']['used']:,} tokens.",
        f"On {rows['held_out']} held-out rows, which no trial saw:",
        *(f"  {line}" for line in held_out_lines(held_out)),
    ]
    if facts["winner"].get("shots"):
        lines.append(f"The examples are drawn from {facts['rows']['examples']} rows beside this file.")
    return lines


def held_out_lines(held_out: Mapping[str, Any]) -> list[str]:
    """The figures on held-out rows as lines of text."""
    names = (("this job", "winner"), ("the job as given", "baseline"))
    lines = []
    for title, key in names:
        figures = held_out[key]
        low, high = figures["intervals"]["accuracy"]
        text = (
            f"{title}: accuracy {figures['accuracy']:.3f} ({low:.3f} to {high:.3f}), macro-F1 {figures['macro_f1']:.3f}"
        )
        lines.append(
            text
            + "".join(
                f", {name.replace('_', '-')} {figures[name]:.3f}"
                for name in ("log_loss", "ece")
                if figures[name] is not None
            )
        )
    test = held_out["comparison"]
    low, high = test["interval"]
    lines.append(
        f"difference of accuracy: {test['difference']:+.3f} ({low:+.3f} to {high:+.3f}); McNemar's test: "
        f"p = {test['p_value']:.2g}"
    )
    if held_out["ece_with_calibration"] is not None:
        lines.append(
            f"ECE of this scoring: {held_out['ece_without_calibration']:.3f} without the fitted calibration, "
            f"{held_out['ece_with_calibration']:.3f} with it"
        )
    return lines


def _with_template(trial: Trial) -> dict[str, Any]:
    return {**trial.to_dict(), "template_text": trial.prompt.template}


def _templates(found: Found) -> dict[str, str | None]:
    return {trial.prompt.name: trial.prompt.template for trial in found.trials}
