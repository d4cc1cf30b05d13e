"""The choice between variants whose rows are the same."""

from __future__ import annotations

import numpy as np
import pytest

from tirazh.pipeline.tuning.metrics import choose_variant, value_of

GOLD = np.arange(200, dtype=np.int64) % 2


def scores(*, wrong: int, margin: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Scores that favour the gold label by `margin`, but for the first rows another one."""
    found = np.zeros((200, 2))
    found[np.arange(200), np.where(np.arange(200) < wrong, 1 - GOLD, GOLD)] = margin
    return found


def test_among_accuracies_that_differ_by_chance_the_log_loss_decides() -> None:
    sharp, mild = scores(wrong=40, margin=20.0), scores(wrong=41, margin=1.5)
    assert choose_variant([sharp, mild], GOLD, "accuracy") == 1


def test_a_variant_that_is_clearly_worse_is_not_chosen_for_its_log_loss() -> None:
    sharp, mild = scores(wrong=40, margin=20.0), scores(wrong=60, margin=1.5)
    assert choose_variant([mild, sharp], GOLD, "accuracy") == 1


def test_of_equal_variants_the_first_is_chosen() -> None:
    same = scores(wrong=3, margin=1.0)
    assert choose_variant([same, same.copy()], GOLD, "macro_f1") == 0


def test_a_row_that_could_not_be_run_counts_as_wrong() -> None:
    broken = scores(wrong=0, margin=1.0)
    broken[:50] = np.nan
    assert value_of("accuracy", broken, GOLD) == 0.75
    assert value_of("log_loss", broken, GOLD) == pytest.approx(
        -(150 * np.log1p(np.exp(-1)) - 50 * np.log(2.0**-52)) / 200
    )
