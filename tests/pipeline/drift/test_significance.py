"""The tests of two samples: symmetric, silent about a sample and itself, and equal to those of SciPy."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tirazh.pipeline.drift.significance import expected_psi, holm, psi, same_distribution, same_share, same_shares

COUNTS = st.lists(st.integers(0, 400), min_size=1, max_size=8).map(lambda counts: np.array(counts, np.int64))
SHARE = st.integers(1, 300).flatmap(lambda rows: st.tuples(st.integers(0, rows), st.just(rows)))


@given(COUNTS, COUNTS)
@settings(max_examples=50, deadline=None)
def test_the_index_and_the_tests_are_symmetric(first: np.ndarray, second: np.ndarray) -> None:
    assert psi(first, second) == pytest.approx(psi(second, first), abs=1e-12)
    assert expected_psi(first, second) == expected_psi(second, first)
    assert same_shares(first, second) == pytest.approx(same_shares(second, first), abs=1e-12)
    assert same_distribution(first, second) == pytest.approx(same_distribution(second, first), abs=1e-12)


@given(COUNTS)
@settings(max_examples=50, deadline=None)
def test_a_sample_does_not_differ_from_itself(counts: np.ndarray) -> None:
    assert psi(counts, counts) == 0
    assert same_shares(counts, counts)[0] > 0.99
    assert same_distribution(counts, counts) == (0.0, 1.0)


@given(COUNTS, COUNTS)
def test_the_index_is_never_negative(first: np.ndarray, second: np.ndarray) -> None:
    assert psi(first, second) >= 0


@given(SHARE, SHARE)
@settings(deadline=None)
def test_two_shares_are_compared_by_fishers_exact_test(first: tuple[int, int], second: tuple[int, int]) -> None:
    found = same_share(*first, *second)
    assert found == pytest.approx(same_share(*second, *first))
    table = [[first[0], first[1] - first[0]], [second[0], second[1] - second[0]]]
    assert found == pytest.approx(stats.fisher_exact(table).pvalue, rel=1e-6)


def test_large_samples_are_compared_by_the_chi_squared_test() -> None:
    first, second = np.array([30_000, 20_000, 9_000]), np.array([29_500, 20_700, 8_800])
    expected = stats.chi2_contingency([first, second], correction=False).pvalue
    assert same_shares(first, second) == (pytest.approx(expected), "chi-squared")
    expected = stats.chi2_contingency([[30_000, 29_000], [29_500, 29_500]], correction=False).pvalue
    assert same_share(30_000, 59_000, 29_500, 59_000) == pytest.approx(expected)


def test_few_expected_rows_are_compared_by_random_divisions_which_agree_with_the_exact_test() -> None:
    p_value, test = same_shares(np.array([0, 30]), np.array([7, 23]))
    assert test == "permutation"
    # Pearson's statistic orders the divisions of two categories as their chances do, if the samples are equally large.
    assert p_value == pytest.approx(stats.fisher_exact([[0, 30], [7, 23]]).pvalue, abs=0.003)
    assert same_shares(np.array([3, 27]), np.array([5, 25]))[0] == pytest.approx(0.7065, abs=0.05)


def test_confidences_are_compared_as_by_kolmogorov_and_smirnov() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.beta(5, 1, 800), rng.beta(4, 1, 1_200)
    bins = [np.histogram(each, 2_000, (0, 1))[0] for each in (first, second)]
    distance, p_value = same_distribution(*bins)
    expected = stats.ks_2samp(first, second, method="asymp")
    assert distance == pytest.approx(expected.statistic, abs=0.005)
    assert math.log(p_value) == pytest.approx(math.log(expected.pvalue), rel=0.1)


@pytest.mark.parametrize(("rows", "categories"), [(60, 5), (350, 5), (350, 20)])
def test_the_index_without_drift_is_on_average_what_is_expected(rows: int, categories: int) -> None:
    rng = np.random.default_rng(rows)
    shares = np.full(categories, 1 / categories)
    found = [psi(rng.multinomial(rows, shares), rng.multinomial(2 * rows, shares)) for _ in range(400)]
    expected = (categories - 1) * (1 / rows + 1 / (2 * rows))
    assert expected_psi(np.full(categories, rows), np.full(categories, 2 * rows)) < expected
    assert np.mean(found) == pytest.approx(expected, rel=0.15)


def test_the_index_of_a_new_category_is_finite() -> None:
    assert 0 < psi(np.array([100, 0]), np.array([60, 40])) < 5
    assert psi(np.array([], np.int64), np.array([], np.int64)) == 0
    assert psi(np.array([0, 0]), np.array([1, 2])) == 0


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=8))
def test_holm_corrects_in_the_order_of_the_p_values(p_values: dict[str, float]) -> None:
    found = holm(p_values)
    assert list(found) == list(p_values)
    ordered = sorted(p_values, key=lambda name: p_values[name])
    assert all(found[name] >= p_values[name] for name in ordered)
    assert all(found[first] <= found[second] for first, second in pairwise(ordered))
    if ordered:
        assert found[ordered[0]] == min(1.0, len(ordered) * p_values[ordered[0]])
        assert found[ordered[-1]] >= p_values[ordered[-1]]
