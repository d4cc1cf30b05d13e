"""Makes the content of a calibration file from a fitted calibration: figures, date and version are added."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from tirazh.pipeline.classification.calibration.calibration import Fitted
from tirazh.pipeline.classification.calibration.file import CalibrationFile
from tirazh.pipeline.classification.calibration.fit import Ints, log_loss
from tirazh.pipeline.classification.calibration.score_settings import ScoreSettings
from tirazh.pipeline.classification.calibration.transforms import Floats
from tirazh.pipeline.evaluation.ranking import calibration_error, rank_rows


def make_calibration_file(fitted: Fitted, scores: ScoreSettings) -> CalibrationFile:
    """Return the file of a calibration that was fitted on scores such as `scores`, dated now."""
    return CalibrationFile(
        calibration=fitted.calibration,
        scores=scores,
        figures={
            "rows": len(fitted.gold),
            "before": _figures(fitted.before, fitted.gold),
            "after": _figures(fitted.after, fitted.gold),
            "log_loss": dict(fitted.log_loss),
        },
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        version=version("tirazh"),
    )


def _figures(probabilities_NL: Floats, gold_N: Ints) -> dict[str, Any]:
    right = probabilities_NL.argmax(axis=1) == gold_N
    return {
        "log_loss": float(log_loss(probabilities_NL, gold_N).mean()),
        "ece": calibration_error(rank_rows(probabilities_NL.max(axis=1), right)),
        "accuracy": float(right.mean()),
    }
