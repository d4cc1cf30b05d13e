"""Each method reaches its optimum, for few labels and for many, and works with few rows."""

from __future__ import annotations

import numpy as np
import pytest

from tests.pipeline.classification.calibration.samples import draw, expected_calibration_error
from tirazh.pipeline.classification.calibration.fit import METHODS, fit, log_loss
from tirazh.pipeline.classification.calibration.transforms import (
    FLOOR,
    Affine,
    Isotonic,
    log_odds,
    normalised,
    softmax,
)

LABEL_COUNTS = (2, 5, 15, 50)


@pytest.mark.parametrize("labels", LABEL_COUNTS)
@pytest.mark.parametrize("temperature", [0.25, 1.0, 4.0])
def test_the_temperature_is_the_best_of_a_grid_for_any_number_of_labels(labels: int, temperature: float) -> None:
    scores, gold = draw(400, labels, overconfidence=temperature)
    found = fit("temperature", scores, gold)
    assert isinstance(found, Affine)
    grid = np.geomspace(0.02, 50.0, 800)
    losses = [log_loss(softmax(scale * scores), gold).mean() for scale in grid]
    assert log_loss(found.apply(scores), gold).mean() <= min(losses) + 1e-3
    assert found.scales[0] == pytest.approx(grid[int(np.argmin(losses))], rel=0.05)


@pytest.mark.parametrize("labels", LABEL_COUNTS)
def test_a_temperature_does_not_stay_at_one_for_many_labels(labels: int) -> None:
    found = fit("temperature", *draw(500, labels, overconfidence=3.0))
    assert isinstance(found, Affine)
    assert 1 / found.scales[0] == pytest.approx(3.0, rel=0.2)


def test_a_temperature_stays_finite_where_every_row_is_right() -> None:
    scores, _ = draw(30, 4)
    found = fit("temperature", scores, scores.argmax(axis=1).astype(np.int64))
    assert isinstance(found, Affine)
    assert 1.0 < found.scales[0] < 100.0


@pytest.mark.parametrize("labels", LABEL_COUNTS)
def test_vector_scaling_finds_the_minimum_of_its_loss(labels: int) -> None:
    scores, gold = draw(400, labels, bias=1.0)
    found = fit("vector", scores, gold)
    assert isinstance(found, Affine)

    def loss(change: np.ndarray) -> float:
        common = fit("temperature", scores, gold).scales[0]  # type: ignore[union-attr]
        scales, biases = np.asarray(found.scales) + change[:labels], np.asarray(found.biases) + change[labels:]
        spread = (scales - scales.mean()) / (0.15 * common)
        penalty = (spread**2).sum() + (scales.mean() / common - 1) ** 2 + (biases**2).sum()
        return float(log_loss(softmax(scales * scores + biases), gold).mean() + penalty / (2 * len(gold)))

    random = np.random.default_rng(1)
    best = loss(np.zeros(2 * labels))
    assert all(best <= loss(size * random.normal(size=2 * labels)) + 1e-9 for size in (1e-3, 1e-2, 0.1) for _ in "abc")


@pytest.mark.parametrize(("labels", "rows"), [(5, 100), (5, 500), (15, 100), (15, 500)])
def test_vector_scaling_of_a_biased_model_is_calibrated_on_other_rows_already_with_few(labels: int, rows: int) -> None:
    fitted = fit("vector", *draw(rows, labels, bias=1.0))
    scores, gold = draw(4000, labels, seed=1, bias=1.0)
    after = fitted.apply(scores)
    assert expected_calibration_error(after, gold) < (0.08 if rows == 100 else 0.05)
    assert (after.argmax(axis=1) == gold).mean() > (scores.argmax(axis=1) == gold).mean() + 0.02
    temperature = fit("temperature", *draw(rows, labels, bias=1.0))
    assert log_loss(after, gold).mean() < log_loss(temperature.apply(scores), gold).mean()


def test_a_label_without_rows_keeps_a_scale_and_a_bias_near_the_common_ones() -> None:
    scores, gold = draw(300, 5)
    seen = gold != 4
    found = fit("vector", scores[seen], gold[seen])
    assert isinstance(found, Affine)
    assert all(np.isfinite(found.biases))
    assert all(0 < scale < 100 for scale in found.scales)


def test_isotonic_functions_are_those_of_scikit_learn() -> None:
    from sklearn.isotonic import IsotonicRegression

    scores, gold = draw(300, 3)
    found = fit("isotonic", scores, gold)
    assert isinstance(found, Isotonic)
    other, _ = draw(50, 3, seed=7)
    for label, (odds, shares) in enumerate(found.knots):
        regression = IsotonicRegression(out_of_bounds="clip").fit(log_odds(scores)[:, label], gold == label)
        assert np.allclose(
            regression.predict(log_odds(other)[:, label]), np.interp(log_odds(other)[:, label], odds, shares)
        )


def test_isotonic_calibration_with_many_rows_repairs_a_curve_that_no_temperature_can() -> None:
    scores, gold = draw(4000, 3)
    bent = normalised(np.where(scores < -1.0, 3 * scores, scores))
    other_scores, other_gold = draw(4000, 3, seed=1)
    other = normalised(np.where(other_scores < -1.0, 3 * other_scores, other_scores))
    assert expected_calibration_error(fit("isotonic", bent, gold).apply(other), other_gold) < 0.03


def test_batch_calibration_divides_by_the_mean_probability_and_reads_no_gold() -> None:
    scores, gold = draw(200, 4, bias=1.0)
    found = fit("batch", scores, gold)
    assert found == fit("batch", scores, np.zeros_like(gold))
    expected = np.exp(scores) / np.exp(scores).mean(axis=0)
    assert np.allclose(found.apply(scores), expected / expected.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("labels", LABEL_COUNTS)
def test_probabilities_add_up_to_one_and_are_never_zero_or_nan(method: str, labels: int) -> None:
    scores, gold = draw(60, labels, overconfidence=50.0)
    certain = np.full((3, labels), -np.inf)
    certain[np.arange(3), [0, 1, 1]] = 0.0
    after = fit(method, scores, gold).apply(normalised(np.concatenate([scores, certain])))  # type: ignore[arg-type]
    assert np.allclose(after.sum(axis=1), 1.0)
    assert (after >= 0.0).all()


def test_log_probabilities_are_normalised_and_have_a_floor() -> None:
    rows = normalised(np.array([[-1000.0, -1001.0], [0.0, -np.inf]]))
    assert np.allclose(np.exp(rows[0]), [1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))])
    assert rows[1].tolist() == [0.0, FLOOR]
