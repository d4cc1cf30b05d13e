"""Which evaluation is the best, and when evaluations end a training."""

from __future__ import annotations

from typing import Any

import pytest

from tirazh.model.training.selection import Selection


def log_of(name: str, *values: float | None) -> list[dict[str, Any]]:
    """Evaluations at steps 0, 10, 20 …, each after a step of training."""
    log: list[dict[str, Any]] = []
    for number, value in enumerate(values):
        log += [{"step": number * 10, "loss": 1.0}] if number else []
        log.append({"step": number * 10, name: value, "seconds": 1.0})
    return log


@pytest.mark.parametrize(
    ("by", "values", "best"),
    [
        ("perplexity", (9.0, 5.0, 3.0, 4.0), 20),
        ("accuracy", (0.1, 0.5, 0.7, 0.6), 20),
        ("perplexity", (9.0, 5.0, None, 6.0), 10),
        ("accuracy", (0.9, 0.5, 0.5, 0.4), 10),  # of equal ones the first; the model before training is none of them
    ],
)
def test_the_best_evaluation(by: Any, values: tuple[float | None, ...], best: int) -> None:
    found = Selection(keep="best", by=by).best(log_of(by, *values))
    assert found is not None
    assert found["step"] == best


def test_there_is_no_best_evaluation_before_the_first_one_after_training() -> None:
    assert Selection(keep="best").best(log_of("perplexity", 9.0)) is None
    assert Selection(keep="best").best(log_of("perplexity", 9.0, None)) is None


@pytest.mark.parametrize(
    ("values", "end"),
    [
        ((9.0, 5.0, 4.0, 3.0, 2.0), None),
        ((9.0, 5.0, 6.0), None),
        ((9.0, 5.0, 6.0, 7.0), 30),
        ((9.0, 5.0, 6.0, 5.0, 4.0), 30),  # as good as the best is not better; what follows changes nothing
        ((9.0, None, None, None), 30),
        ((1.0, 5.0, 4.0, 3.0), None),
    ],
)
def test_patience_ends_a_training_after_evaluations_without_a_better_one(
    values: tuple[float | None, ...], end: int | None
) -> None:
    assert Selection(patience=2).end_step(log_of("perplexity", *values)) == end
    assert Selection().end_step(log_of("perplexity", *values)) is None
