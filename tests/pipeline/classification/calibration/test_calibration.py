"""The choice of a method, and a calibration as a value: the same for any order of rows, picklable."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pipeline.classification.calibration.samples import draw
from tirazh.errors import RequestError
from tirazh.pipeline.classification.calibration.calibration import MIN_ROWS, fit_calibration
from tirazh.pipeline.classification.calibration.choose import FOLDS, choose_method, cross_validate, folds_of

NAMES = tuple("abcde")


def test_one_temperature_is_enough_for_a_model_that_is_only_too_sure() -> None:
    assert fit_calibration(*draw(300, 5), NAMES).calibration.method == "temperature"


def test_a_biased_model_needs_a_bias_for_each_label() -> None:
    assert fit_calibration(*draw(300, 5, bias=1.0), NAMES).calibration.method == "vector"


def test_a_method_with_more_parameters_must_gain_more_than_a_standard_error() -> None:
    gain = np.array([1.0, -0.9] * 50)
    flat = np.zeros(100)
    assert choose_method({"temperature": flat + 1, "vector": flat + 1 - gain}) == "temperature"
    assert choose_method({"temperature": flat + 1, "vector": flat + 0.9}) == "vector"
    assert choose_method({"temperature": flat, "batch": flat, "vector": flat + 1}) == "temperature"


def test_a_row_is_never_in_the_fit_of_its_own_confidence() -> None:
    scores, gold = draw(100, 5)
    before = cross_validate(scores, gold, ("vector",)).probabilities["vector"]
    changed = gold.copy()
    row = 17
    other = int(np.flatnonzero((folds_of(gold) == folds_of(gold)[row]) & (gold != gold[row]))[0])
    # Exchanging the gold labels of two rows of one fold changes the fits of other folds only.
    changed[[row, other]] = changed[[other, row]]
    assert (folds_of(changed)[[row, other]] >= 0).all()
    after = cross_validate(scores, gold, ("vector",)).probabilities["vector"]
    assert np.array_equal(before, after)
    fitted = fit_calibration(scores, gold, NAMES, method="vector")
    assert not np.allclose(fitted.after, fitted.calibration.apply(np.log(fitted.before)))


def test_folds_have_nearly_the_same_share_of_every_label() -> None:
    _, gold = draw(203, 5)
    fold = folds_of(gold)
    for label in range(5):
        counts = np.bincount(fold[gold == label], minlength=FOLDS)
        assert counts.max() - counts.min() <= 1


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_order_of_the_rows_changes_nothing(seed: int) -> None:
    scores, gold = draw(60, 3)
    order = np.random.default_rng(seed).permutation(len(gold))
    one, other = fit_calibration(scores, gold, NAMES[:3]), fit_calibration(scores[order], gold[order], NAMES[:3])
    assert one.calibration == other.calibration
    assert one.log_loss == other.log_loss


def test_scores_may_have_any_constant_per_row() -> None:
    scores, gold = draw(100, 5)
    calibration = fit_calibration(scores, gold, NAMES).calibration
    assert np.allclose(calibration.apply(scores - 321.0), calibration.apply(scores))


def test_a_calibration_can_be_sent_to_a_task() -> None:
    calibration = fit_calibration(*draw(5000, 5), NAMES, method="isotonic").calibration
    small = calibration.without_sample()
    data = pickle.dumps(small)
    assert pickle.loads(data) == small
    assert len(data) < 50_000
    assert calibration.sample is not None
    assert len(calibration.sample.confidence) == 5000
    assert calibration.label_shares == pytest.approx(np.bincount(draw(5000, 5)[1]) / 5000)


@pytest.mark.parametrize("method", ["temperature", "batch", "vector", "isotonic"])
def test_figures_are_cross_validated(method: str) -> None:
    fitted = fit_calibration(*draw(200, 5), NAMES, method=method)  # type: ignore[arg-type]
    assert set(fitted.log_loss) == {"none", method}
    assert fitted.log_loss[method] == pytest.approx(float(-np.log(fitted.after[np.arange(200), fitted.gold]).mean()))


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(RequestError, match=f"at least {MIN_ROWS} rows with a gold label and probabilities.* 19"):
        fit_calibration(*draw(19, 5), NAMES)
    scores, gold = draw(30, 5)
    with pytest.raises(RequestError, match="all 30 gold rows have the label 'a'"):
        fit_calibration(scores, np.zeros_like(gold), NAMES)
