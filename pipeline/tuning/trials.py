"""The table of trials: every variant of every prompt setting, with its figure and how far it came."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tirazh.pipeline.evaluation.bootstrap import confusion_intervals, mean_interval
from tirazh.pipeline.evaluation.confusion import confusion_matrix, macro_f1
from tirazh.pipeline.tuning.candidates import Ints, SearchCandidate
from tirazh.pipeline.tuning.halving import Standing
from tirazh.pipeline.tuning.metrics import Scores, log_losses, predictions_of
from tirazh.pipeline.tuning.settings import Metric
from tirazh.pipeline.tuning.space import PromptChoice, ScoreChoice

RESAMPLES = 1_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One variant. `rung` is the last rung of its prompts, from 1, and `rows` the search rows of that rung. `value` is
    the metric on these rows, `interval` its 95 % bootstrap interval. `tokens` are those of its prompts in all rungs;
    other variants with the same prompts share them."""

    prompt: PromptChoice
    score: ScoreChoice
    rung: int
    rows: int
    tokens: int
    value: float
    interval: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """JSON values for the table."""
        return {
            **self.prompt.to_dict(),
            **self.score.to_dict(),
            "rung": self.rung,
            "rows": self.rows,
            "tokens": self.tokens,
            "value": self.value,
            "interval": list(self.interval),
        }


def trial_of(
    candidate: SearchCandidate, standing: Standing, score: ScoreChoice, scores_NL: Scores, labels: tuple[str, ...]
) -> Trial:
    """The trial of one variant, whose label scores on the rows of the last rung are `scores_NL`."""
    value, interval = measure(candidate.metric, scores_NL, candidate.gold[: standing.rows], labels)
    return Trial(
        prompt=candidate.prompt,
        score=score,
        rung=standing.rung,
        rows=standing.rows,
        tokens=standing.tokens,
        value=value,
        interval=interval,
    )


def trials_of(
    candidates: Sequence[SearchCandidate], standings: Sequence[Standing], labels: tuple[str, ...]
) -> list[Trial]:
    """The trials of all candidates, in their order."""
    return [
        trial_of(candidate, standing, score, candidate.scorer.scores(score, candidate.rows[: standing.rows]), labels)
        for candidate, standing in zip(candidates, standings, strict=True)
        for score in candidate.choices
    ]


def measure(
    metric: Metric, scores_NL: Scores, gold_N: Ints, labels: tuple[str, ...]
) -> tuple[float, tuple[float, float]]:
    """The metric as it is shown (the log-loss in nats, lower is better), and its 95 % bootstrap interval."""
    found = predictions_of(scores_NL, gold_N, labels)
    if metric == "macro_f1":
        matrix = confusion_matrix(gold_N, found.chosen, len(labels))
        return macro_f1(matrix), confusion_intervals(matrix, seed=0, resamples=RESAMPLES)["macro_f1"]
    values = (found.chosen == gold_N).astype(np.float64) if metric == "accuracy" else log_losses(found)
    return float(values.mean()), mean_interval(values, seed=0, resamples=RESAMPLES)
