"""A calibration that is fitted on the search rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tirazh.pipeline.classification.calibration.calibration import MIN_ROWS, Calibration, Fitted, fit_calibration
from tirazh.pipeline.classification.calibration.choose import row_order
from tirazh.pipeline.classification.calibration.make_file import make_calibration_file
from tirazh.pipeline.classification.calibration.score_settings import score_fingerprint
from tirazh.pipeline.resolve import ResolvedJob
from tirazh.pipeline.tuning.candidates import Ints
from tirazh.pipeline.tuning.metrics import Scores

_LEAST = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, slots=True)
class FittedScores:
    """A calibration; `scores` are the out-of-fold log-probabilities of the rows that it was fitted on, in their order,
    float64 [n, L]."""

    fitted: Fitted
    scores: Scores

    def apply(self, scores_NL: Scores) -> Scores:
        """The calibrated log-probabilities of other rows, float64 [n, L]; NaN for a row of NaN."""
        return calibrated(self.fitted.calibration, scores_NL)

    def to_json(self, job: ResolvedJob) -> bytes:
        """The content of the calibration file for a job with the scores that it was fitted on."""
        settings = score_fingerprint(
            job.identity, model_fingerprint=job.model.fingerprint, examples_sha256=job.examples_sha256
        )
        return make_calibration_file(self.fitted, settings).to_json()


def calibrated(calibration: Calibration, scores_NL: Scores) -> Scores:
    """The calibrated log-probabilities of rows, float64 [n, L]; NaN for a row of NaN."""
    found = np.full(scores_NL.shape, np.nan)
    is_run = ~np.isnan(scores_NL).any(axis=1)
    if is_run.any():
        found[is_run] = _log(calibration.apply(scores_NL[is_run]))
    return found


def fit_scores(scores_NL: Scores, gold_N: Ints, labels: tuple[str, ...]) -> FittedScores | None:
    """Fit a calibration, with the method that out-of-fold rows choose; None for too few rows."""
    if len(gold_N) < MIN_ROWS or len(np.unique(gold_N)) < 2:
        return None
    fitted = fit_calibration(scores_NL, gold_N, labels)
    scores = np.empty_like(scores_NL)
    scores[row_order(scores_NL, gold_N)] = _log(fitted.after)
    return FittedScores(fitted, scores)


def _log(chances_NL: Scores) -> Scores:
    logs: Scores = np.log(np.maximum(chances_NL, _LEAST))
    return logs
