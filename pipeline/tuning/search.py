"""The search: successive halving on the search rows, a fitted calibration, and the figures on held-out rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tirazh.pipeline.evaluation.compare import Comparison, compare
from tirazh.pipeline.evaluation.evaluate import Evaluation, evaluate
from tirazh.pipeline.evaluation.predictions import Predictions
from tirazh.pipeline.spec.classify import Scoring
from tirazh.pipeline.tuning.budget import TokenBudget
from tirazh.pipeline.tuning.candidates import Ints, PromptScorer, SearchCandidate, tokens_of
from tirazh.pipeline.tuning.halving import OnRung, Outcome, halve
from tirazh.pipeline.tuning.metrics import Scores, choose_variant, predictions_of
from tirazh.pipeline.tuning.sample import Split
from tirazh.pipeline.tuning.settings import Metric
from tirazh.pipeline.tuning.space import CALIBRATIONS, FITTED, NO_CALIBRATION, PromptChoice, ScoreChoice, SearchSpace
from tirazh.pipeline.tuning.trials import RESAMPLES, Trial, trial_of, trials_of

# Longer prompts are not tried: with them the held-out rows alone would take so much of the budget, and so many times
# the tokens of the job as given.
_MOST_HELD_OUT = 0.25
_MOST_TIMES_GIVEN = 2


class FittedCalibration(Protocol):
    """A calibration fitted on the search rows. `scores` are the out-of-fold log-probabilities of these rows, in their
    order, float64 [n, L]."""

    @property
    def scores(self) -> Scores: ...

    def apply(self, scores_NL: Scores) -> Scores:
        """The calibrated log-probabilities of other rows, float64 [n, L]."""


Fit = Callable[[Scores, Ints], FittedCalibration | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOut:
    """The figures on the held-out rows, which no trial saw: of the winner, of the job as it was given, and of both on
    the same rows. `uncalibrated_ece` and `calibrated_ece` are those of the winner's scoring without and with the fitted
    calibration; None without one. `winner_predictions` are the winner's answers."""

    winner: Evaluation
    baseline: Evaluation
    comparison: Comparison
    winner_predictions: Predictions
    uncalibrated_ece: float | None = None
    calibrated_ece: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a search found. `fitted` is the calibration of the winner's scoring, also where the winner does not use it.
    `too_long` are prompts that were not tried because their held-out rows alone would take too much of the budget."""

    trials: tuple[Trial, ...]
    winner: Trial
    baseline: Trial
    fitted: FittedCalibration | None
    held_out: HeldOut
    is_complete: bool
    too_long: tuple[PromptChoice, ...]


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search. `scorers` has the prompt settings that can be run; the first of `space.prompts` and of `space.scores`
    are those of the job as it was given. `gold` are the labels of all rows, int64 [N]."""

    space: SearchSpace
    scorers: Mapping[PromptChoice, PromptScorer]
    gold: Ints
    split: Split
    labels: tuple[str, ...]
    metric: Metric
    fit: Fit | None = None
    seed: int = 0

    def run(self, budget: TokenBudget, on_rung: OnRung = lambda start: None) -> Found:
        """Search within the budget; the tokens of the held-out rows are part of it.

        Raises RequestError for a budget that is too small.
        """
        candidates, too_long = self._candidates(budget)
        budget.reserved = self._held_out_tokens(candidates)
        outcome = halve(candidates, rows=len(self.split.search), budget=budget, on_rung=on_rung)
        trials = trials_of(candidates, outcome.standings, self.labels)
        winner, standing = candidates[outcome.winner], outcome.standings[outcome.winner]
        fitted = self._fitted(winner, outcome) if self.space.fits else {}
        variants = {score: winner.scorer.scores(score, winner.rows[: standing.rows]) for score in winner.choices}
        for scoring, calibration in fitted.items():
            choice = ScoreChoice(scoring, FITTED)
            variants[choice] = calibration.scores
            trials.append(trial_of(winner, standing, choice, calibration.scores, self.labels))
        chosen = choose_variant(list(variants.values()), winner.gold[: standing.rows], self.metric)
        wanted = winner.prompt, list(variants)[chosen]
        best = next(trial for trial in trials if (trial.prompt, trial.score) == wanted)
        baseline = next(each for each in trials if (each.prompt, each.score) == self._given)
        calibration_of_best = fitted.get(best.score.scoring)
        held_out = self._held_out(best, calibration_of_best, budget)
        return Found(
            trials=tuple(trials),
            winner=best,
            baseline=baseline,
            fitted=calibration_of_best,
            held_out=held_out,
            is_complete=outcome.is_complete,
            too_long=too_long,
        )

    @property
    def _given(self) -> tuple[PromptChoice, ScoreChoice]:
        return self.space.prompts[0], self.space.scores[0]

    def _candidates(self, budget: TokenBudget) -> tuple[list[SearchCandidate], tuple[PromptChoice, ...]]:
        prompts = [prompt for prompt in self.space.prompts if prompt in self.scorers]
        held_out = {prompt: self._tokens(prompt, self.split.held_out) for prompt in prompts}
        most = max(_MOST_HELD_OUT * budget.limit, _MOST_TIMES_GIVEN * held_out[prompts[0]])
        is_short = {prompt: tokens <= most for prompt, tokens in held_out.items()}
        rows = self.split.search
        candidates = [
            SearchCandidate(
                prompt=prompt,
                scorer=self.scorers[prompt],
                rows=rows,
                gold=self.gold[rows],
                choices=self._choices(prompt),
                metric=self.metric,
            )
            for prompt in prompts
            if is_short[prompt]
        ]
        return candidates, tuple(prompt for prompt in prompts if not is_short[prompt])

    def _choices(self, prompt: PromptChoice) -> list[ScoreChoice]:
        """The variants of a prompt setting: a calibration file of the job belongs to its own prompts alone."""
        has_content_free = self.scorers[prompt].has_content_free
        return [
            score
            for score in self.space.scores
            if (score.calibrate != "contextual" or has_content_free)
            and (score.calibrate in CALIBRATIONS or prompt == self._given[0])
        ]

    def _held_out_tokens(self, candidates: Sequence[SearchCandidate]) -> int:
        """The tokens of the held-out rows with the given prompts, and with the longest of the others."""
        given, *others = [self._tokens(each.prompt, self.split.held_out) for each in candidates]
        return given + max(others, default=0)

    def _tokens(self, prompt: PromptChoice, rows: Ints) -> int:
        return tokens_of(self.scorers[prompt], rows)

    def _fitted(self, candidate: SearchCandidate, outcome: Outcome) -> dict[Scoring, FittedCalibration]:
        """A calibration for each scoring of the space, if the rows suffice."""
        assert self.fit is not None, "a space with fitted calibrations needs `fit`"
        rows = candidate.rows[: outcome.standings[outcome.winner].rows]
        found = {}
        for scoring in dict.fromkeys(choice.scoring for choice in self.space.scores):
            scores = candidate.scorer.scores(ScoreChoice(scoring, NO_CALIBRATION), rows)
            is_run = ~np.isnan(scores).any(axis=1)
            fitted = self.fit(scores, self.gold[rows]) if is_run.all() else None
            if fitted is not None:
                found[scoring] = fitted
        return found

    def _held_out(self, best: Trial, fitted: FittedCalibration | None, budget: TokenBudget) -> HeldOut:
        rows = self.split.held_out
        gold = self.gold[rows]
        prompt, score = self._given
        for each in dict.fromkeys((best.prompt, prompt)):
            self.scorers[each].run(rows)
            budget.spend(self._tokens(each, rows))
        scorer = self.scorers[best.prompt]
        plain = scorer.scores(ScoreChoice(best.score.scoring, NO_CALIBRATION), rows)
        calibrated = None if fitted is None else fitted.apply(plain)
        is_fitted = best.score.calibrate == FITTED and calibrated is not None
        chosen = calibrated if is_fitted else scorer.scores(best.score, rows)
        assert chosen is not None
        winner, baseline = (
            predictions_of(scores, gold, self.labels) for scores in (chosen, self.scorers[prompt].scores(score, rows))
        )
        return HeldOut(
            winner=evaluate(winner, seed=self.seed, resamples=RESAMPLES),
            baseline=evaluate(baseline, seed=self.seed, resamples=RESAMPLES),
            comparison=compare(winner, baseline, seed=self.seed),
            winner_predictions=winner,
            uncalibrated_ece=None if calibrated is None else self._ece(plain, gold),
            calibrated_ece=None if calibrated is None else self._ece(calibrated, gold),
        )

    def _ece(self, scores_NL: Scores, gold_N: Ints) -> float | None:
        return evaluate(predictions_of(scores_NL, gold_N, self.labels), resamples=0).ece


def held_out_facts(found: HeldOut) -> dict[str, Any]:
    """JSON values of the figures on held-out rows."""
    names = ("rows", "accuracy", "macro_f1", "log_loss", "ece", "brier", "coverage_at_5_percent")

    def facts(evaluation: Evaluation) -> dict[str, Any]:
        values = evaluation.to_dict()
        values["accuracy"] = values["accuracy_abstained_wrong"]
        intervals = values["intervals"] | {"accuracy": values["intervals"].get("accuracy_abstained_wrong")}
        return {name: values[name] for name in names} | {
            "intervals": {name: intervals[name] for name in names if intervals.get(name) is not None}
        }

    return {
        "winner": facts(found.winner),
        "baseline": facts(found.baseline),
        "comparison": found.comparison.to_dict(),
        "ece_without_calibration": found.uncalibrated_ece,
        "ece_with_calibration": found.calibrated_ece,
    }
