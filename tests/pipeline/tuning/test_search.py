"""The search with scorers whose quality is known: what wins, what it costs, and what no trial sees."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.pipeline.tuning.known_scores import KnownScorer, fit_known
from tirazh.errors import RequestError
from tirazh.pipeline.tuning.budget import TokenBudget
from tirazh.pipeline.tuning.sample import Split
from tirazh.pipeline.tuning.search import Found, Search, held_out_facts
from tirazh.pipeline.tuning.space import FITTED, PromptChoice, ScoreChoice, SearchSpace

LABELS = ("a", "b", "c")
GOLD = np.arange(600, dtype=np.int64) % 3
SPLIT = Split(np.arange(0, 100), np.arange(100, 400), np.arange(400, 600))
SUM, MEAN = ScoreChoice("sum"), ScoreChoice("mean")


def prompts(count: int) -> tuple[PromptChoice, ...]:
    return tuple(PromptChoice(f"template {number}", f"{{{{ text }}}} {number}:") for number in range(count))


def search(margins: list[float], *, fits: bool = False, gain: float = 0.0, **more: Any) -> Search:
    choices = prompts(len(margins))
    scorers = {
        choice: KnownScorer(GOLD, margin, 3, seed=number)
        for number, (choice, margin) in enumerate(zip(choices, margins, strict=True))
    }
    space = SearchSpace(choices, (SUM, MEAN), fits)
    given: dict[str, Any] = {"space": space, "scorers": scorers, "gold": GOLD, "split": SPLIT, "labels": LABELS}
    return Search(**given, metric=more.pop("metric", "accuracy"), fit=fit_known(gain), **more)


def run(wanted: Search, limit: int = 10**6) -> tuple[Found, TokenBudget]:
    budget = TokenBudget(limit)
    return wanted.run(budget), budget


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "log_loss"])
def test_the_best_prompts_win_and_the_held_out_figure_is_beside_that_of_the_job(metric: str) -> None:
    found, _ = run(search([0.2, 1.0, 3.0, 0.5], metric=metric))
    assert found.winner.prompt.name == "template 2"
    facts = held_out_facts(found.held_out)
    assert facts["winner"]["rows"] == facts["baseline"]["rows"] == facts["comparison"]["rows"] == 200
    assert facts["winner"]["accuracy"] > 0.9 > 0.6 > facts["baseline"]["accuracy"]
    low, high = facts["winner"]["intervals"]["accuracy"]
    assert low <= facts["winner"]["accuracy"] <= high
    assert facts["comparison"]["p_value"] < 1e-6
    assert facts["ece_with_calibration"] is None


def test_no_trial_sees_the_held_out_rows_and_only_two_prompts_ever_do() -> None:
    wanted = search([0.2, 1.0, 3.0, 0.5])
    found, _ = run(wanted)
    held_out = set(SPLIT.held_out.tolist())
    seen = [number for number, choice in enumerate(wanted.space.prompts) if held_out & wanted.scorers[choice].ran]  # type: ignore[attr-defined]
    assert seen == [0, 2]
    assert not any(set(SPLIT.pool.tolist()) & scorer.ran for scorer in wanted.scorers.values())  # type: ignore[attr-defined]
    assert max(trial.rows for trial in found.trials) == len(SPLIT.search)


def test_variants_with_the_same_prompts_share_their_tokens() -> None:
    wanted = search([0.5, 1.5])
    found, budget = run(wanted)
    assert len(found.trials) == 4
    per_prompt = {trial.prompt: trial.tokens for trial in found.trials}
    assert budget.used == sum(per_prompt.values()) + 2 * 20 * len(SPLIT.held_out)


def test_the_best_variant_of_the_best_prompts_wins() -> None:
    wanted = search([0.5, 1.5])
    wanted.scorers[wanted.space.prompts[1]].bonus[MEAN] = 1.0  # type: ignore[attr-defined]
    assert run(wanted)[0].winner.score == MEAN


def test_the_budget_includes_the_held_out_rows() -> None:
    held_out = 2 * 20 * len(SPLIT.held_out)
    found, budget = run(search([0.5, 1.5]), held_out + 2 * 20 * 16)
    assert budget.used <= budget.limit
    assert not found.is_complete or max(trial.rows for trial in found.trials) < len(SPLIT.search)
    with pytest.raises(RequestError, match="is too small"):
        run(search([0.5, 1.5]), held_out + 20 * 16)


def test_prompts_whose_held_out_rows_alone_take_too_much_are_not_tried() -> None:
    wanted = search([0.5, 1.5, 3.0])
    wanted.scorers[wanted.space.prompts[2]].tokens = 1_000  # type: ignore[attr-defined]
    found, budget = run(wanted, 40_000)
    assert [choice.name for choice in found.too_long] == ["template 2"]
    assert found.winner.prompt.name == "template 1"
    assert budget.used <= 40_000


def test_a_fitted_calibration_is_a_trial_of_the_best_prompts() -> None:
    found, _ = run(search([0.5, 1.5], fits=True, gain=2.0))
    assert (found.winner.score.calibrate, found.winner.prompt.name) == (FITTED, "template 1")
    assert [trial.prompt.name for trial in found.trials if trial.score.calibrate == FITTED] == ["template 1"] * 2
    assert found.fitted is not None
    assert found.held_out.calibrated_ece == found.held_out.uncalibrated_ece  # this one changes nothing


def test_a_fitted_calibration_that_makes_trials_worse_is_not_used() -> None:
    found, _ = run(search([0.5, 1.5], fits=True, gain=-2.0))
    assert found.winner.score.calibrate == "none"
    assert found.fitted is not None


def test_the_same_search_gives_the_same_result() -> None:
    first, second = (run(search([0.4, 0.5, 0.6, 0.7]))[0] for _ in range(2))
    assert first.trials == second.trials
    assert held_out_facts(first.held_out) == held_out_facts(second.held_out)


def test_a_row_that_could_not_be_run_is_wrong() -> None:
    wanted = search([0.5, 3.0])
    scorer = wanted.scorers[wanted.space.prompts[1]]
    plain = scorer.scores

    def broken(choice: ScoreChoice, rows: Any) -> Any:
        scores = plain(choice, rows)
        scores[rows >= 500] = np.nan
        return scores

    scorer.scores = broken  # type: ignore[method-assign]
    found, _ = run(wanted)
    facts = held_out_facts(found.held_out)
    assert found.winner.prompt.name == "template 1"
    assert facts["winner"]["accuracy"] <= 0.5
