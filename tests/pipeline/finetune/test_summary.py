"""What the manifest and the messages say of a training's log."""

from __future__ import annotations

from typing import Any

import pytest

from tirazh.pipeline.finetune.summary import before_and_after, describe_change, losses_of, stopped

LOG: list[dict[str, Any]] = [
    {"step": 0, "perplexity": 50.0, "accuracy": 0.05, "seconds": 2.0},
    *({"step": step, "loss": float(step)} for step in (1, 2)),
    {"step": 2, "perplexity": 4.0, "accuracy": 0.7, "seconds": 3.0},
    {"step": 3, "loss": 3.0},
    {"step": 3, "perplexity": 5.0, "accuracy": 0.6, "seconds": 4.0},
]


@pytest.mark.parametrize(
    ("steps", "first", "last", "count"),
    [(1, 1.0, 1.0, 1), (3, 1.5, 2.5, 2), (39, 10.5, 29.5, 20), (100, 10.5, 90.5, 20)],
)
def test_the_first_and_the_last_loss_are_means_over_equally_many_steps(
    steps: int, first: float, last: float, count: int
) -> None:
    log = [{"step": step, "loss": float(step)} for step in range(1, steps + 1)]
    assert losses_of(log) == {"first_loss": first, "last_loss": last, "loss_steps": count}


@pytest.mark.parametrize(("step", "perplexity"), [(2, 4.0), (3, 5.0)])
def test_evaluations_keep_their_steps_and_seconds(step: int, perplexity: float) -> None:
    found = before_and_after(LOG, first_step=0, step=step)
    assert found["evaluation_before"] == {"step": 0, "perplexity": 50.0, "accuracy": 0.05}
    assert found["evaluation"]["perplexity"] == perplexity
    assert found["evaluation"]["step"] == step
    assert (found["evaluations"], found["evaluation_seconds"]) == (3, 9.0)


def test_the_change_is_one_line() -> None:
    found = before_and_after(LOG, first_step=0, step=2)
    assert describe_change(found) == "Before -> after (step 0 -> 2): perplexity 50 -> 4, accuracy 0.05 -> 0.7"
    assert describe_change(before_and_after(LOG[1:3], first_step=0, step=2)) == ""


def test_a_training_that_was_stopped_names_the_last_good_checkpoint_and_how_to_go_on() -> None:
    error = stopped("the loss is nan at step 7", output="out", good=5, learning_rate=5e-5)
    assert str(error).endswith("give the same command with --from out@5 --learning-rate 5e-06")
    assert error.changes == {"from_checkpoint": "out@5", "learning_rate": 5e-6}
    assert "--overwrite" in str(stopped("the loss is nan at step 2", output="out", good=None, learning_rate=1.0))
