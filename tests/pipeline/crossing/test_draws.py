"""Draws follow the weights, and a row keeps its value when a list grows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tirazh.pipeline.crossing import draws
from tirazh.pipeline.crossing.draws import draw
from tirazh.pipeline.crossing.value_list import ValueList, make_list

ROWS = 200_000


def drawn(values: ValueList, *, start: int = 0, stop: int = ROWS, seed: int = 0) -> list[str]:
    return [values.values[int(index)].as_py() for index in draw(values, seed=seed, start=start, stop=stop)]


@pytest.mark.parametrize("limit", [draws.MAX_STABLE_VALUES, 1], ids=["rendezvous", "by sums"])
@pytest.mark.parametrize("weights", [None, [3, 1, 0], [0, 1, 2]])
def test_values_are_drawn_in_proportion_to_their_weights(
    limit: int, weights: list[float] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draws, "MAX_STABLE_VALUES", limit)
    values = make_list("mood", ["calm", "angry", "sad"], weights)
    shares = np.bincount(draw(values, seed=7, start=0, stop=ROWS), minlength=3) / ROWS
    wanted = np.array(weights or [1, 1, 1], float)
    assert np.abs(shares - wanted / wanted.sum()).max() < 0.005


@given(
    st.lists(st.text("abё1", max_size=3), min_size=1, max_size=6, unique=True),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.randoms(use_true_random=False),
)
def test_adding_a_value_changes_only_the_rows_that_draw_it(
    names: list[str], is_weighted: bool, seed: int, random: object
) -> None:
    def weighted(values: list[str]) -> ValueList:
        return make_list("x", values, [len(value) + 1 for value in values] if is_weighted else None)

    before = drawn(weighted(names), stop=300, seed=seed)
    grown = [*names, "new value"]
    random.shuffle(grown)  # type: ignore[attr-defined]
    after = drawn(weighted(grown), stop=300, seed=seed)
    assert all(new in (old, "new value") for old, new in zip(before, after, strict=True))


@given(st.integers(0, 500), st.integers(0, 500))
def test_a_row_draws_the_same_value_in_any_range(start: int, length: int) -> None:
    values = make_list("x", [f"value {number}" for number in range(40)])
    whole = draw(values, seed=3, start=0, stop=1_000)
    assert draw(values, seed=3, start=start, stop=start + length).tolist() == whole[start : start + length].tolist()


def test_lists_seeds_and_neighbouring_rows_are_independent() -> None:
    first, second = make_list("a", ["x", "y"]), make_list("b", ["x", "y"])
    columns = [draw(first, seed=0, start=0, stop=ROWS), draw(second, seed=0, start=0, stop=ROWS)]
    columns += [draw(first, seed=1, start=0, stop=ROWS), draw(first, seed=0, start=1, stop=ROWS + 1)]
    assert np.abs(np.corrcoef(columns) - np.eye(4)).max() < 0.01


def test_these_draws_never_change() -> None:
    values = make_list("mood", ["calm", "angry", "sad"], [3, 1, 1])
    assert "".join(value[0] for value in drawn(values, stop=40, seed=7)) == "csccscacsccsccccccccacsaccccsccccsaaccaa"
