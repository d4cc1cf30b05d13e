"""The texts of `tirazh calibrate` and `tirazh relabel`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tirazh.jobs.terminal.evaluation_text import table_text

_FIGURES = (("log_loss", "log-loss"), ("ece", "ECE"), ("accuracy", "accuracy"))


def calibration_text(found: Mapping[str, Any]) -> str:
    """Return what `pipeline/relabel/fit.py` found as text for a terminal."""
    before, after = found["before"], found["after"]
    figures = [("", "before", "after"), *((name, f"{before[key]:.3f}", f"{after[key]:.3f}") for key, name in _FIGURES)]
    tried = ", ".join(f"{method} {loss:.3f}" for method, loss in found["log_loss"].items())
    targets = [
        f"target error {each['target_error']:g}: "
        + (
            f"answers above {each['threshold']:.3f}, {each['coverage']:.1%} of the rows"
            if each["threshold"] is not None
            else f"not supported ({each['reason'].rpartition('; ')[2]})"
        )
        for each in found["targets"]
    ]
    return "\n\n".join(
        [
            f"{found['method']} calibration of {len(found['label_names'])} labels, fitted on {found['rows']:,} rows",
            table_text(figures) + "\n(after: cross-validated)",
            f"cross-validated log-loss: {tried}",
            "\n".join(targets),
            f"calibration  {found['file']}",
        ]
    )


def relabel_text(manifest: Mapping[str, Any]) -> str:
    """Return the summary of a relabelled output."""
    changed = manifest["relabelled"]
    lines = []
    for question, threshold in changed["thresholds"].items():
        figures = manifest.get("questions", {}).get(question, {}) if question else manifest
        abstained, rows = figures.get("abstained"), manifest["rows"] - manifest["errors"]
        of = f"{question}: " if question else ""
        share = f", {abstained:,} of {rows:,} rows abstain" if abstained is not None else ""
        lines.append(f"{of}threshold {threshold:.4g}{share}")
    if changed["calibration"] is not None:
        lines.append("probabilities calibrated by the file")
    return "\n".join([*lines, f"output  {manifest['output']}"])
