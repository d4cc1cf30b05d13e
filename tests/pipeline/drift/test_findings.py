"""What counts as a change: chance is not alarmed, a real shift is found, and the baselines say what is usual."""

from __future__ import annotations

import numpy as np
import pytest

from tests.pipeline.drift.nights import MORE_SPORT, Night, halves, measured, night_table
from tirazh.pipeline.drift.findings import LEVEL, Findings, find
from tirazh.pipeline.drift.verdict import changes


def labels_changed(found: Findings) -> list[str]:
    return [row.label for row in found.labels[""].rows if row.finding == "changed"]


def finding_of(found: Findings, name: str) -> str:
    return next(each.finding for each in found.figures if each.name == name)


def test_random_halves_of_a_night_alarm_in_at_most_five_percent() -> None:
    rng = np.random.default_rng(0)
    table = night_table(Night(seed=1, abstain_below=0.6, error_share=0.03))
    alarms = 0
    for _ in range(1_000):
        first, second = halves(table, rng)
        alarms += bool(list(changes(find(measured(first), [measured(second)]))))
    assert alarms <= 50


@pytest.mark.parametrize("baselines", [1, 5])
def test_sport_from_four_to_fourteen_percent_is_found_in_a_night_of_350_rows(baselines: int) -> None:
    trials = 100
    found = 0
    for trial in range(trials):
        usual = [measured(Night(seed=1_000 + 10 * trial + each, abstain_below=0.5)) for each in range(baselines)]
        tonight = measured(Night(seed=50_000 + trial, shares=MORE_SPORT, abstain_below=0.5))
        found += "sport" in labels_changed(find(tonight, usual))
    assert found >= 0.9 * trials


def test_a_label_that_takes_a_share_of_all_others_is_named_alone() -> None:
    usual, tonight = Night(rows=5_000, seed=1), Night(rows=5_000, seed=2, shares=MORE_SPORT)
    assert labels_changed(find(measured(tonight), [measured(usual)])) == ["sport"]


def test_a_night_compared_with_itself_has_not_changed() -> None:
    night = measured(Night(gold_share=0.3, error_share=0.1, abstain_below=0.6))
    found = find(night, [night])
    assert list(changes(found)) == []
    assert all(each.difference in (0, None) for each in found.figures)
    assert found.labels[""].psi == 0
    assert found.labels[""].reading == "none"


@pytest.mark.parametrize(
    ("night", "changed"),
    [
        (Night(seed=9, error_share=0.12), "errors"),
        (Night(seed=9, abstain_below=0.75), "abstained"),
        (Night(seed=9, tokens=240), "length"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_kind_of_change_is_found_alone(night: Night, changed: str) -> None:
    assert list(changes(find(measured(night), [measured(Night(seed=each)) for each in range(3)]))) == [changed]


def test_a_large_night_with_a_tiny_difference_is_not_alarmed() -> None:
    first, second = Night(rows=400_000, seed=1), Night(rows=400_000, seed=2, shares=(0.4, 0.3, 0.16, 0.103, 0.037))
    found = find(measured(second), [measured(first)])
    sport = next(row for row in found.labels[""].rows if row.label == "sport")
    assert sport.p_value is not None
    assert sport.p_value < LEVEL
    assert (sport.finding, list(changes(found))) == ("small", [])


def test_what_the_baselines_differ_among_themselves_is_usual() -> None:
    weekend = Night(seed=1, shares=MORE_SPORT)
    baselines = [measured(each) for each in (weekend, Night(seed=2), Night(seed=3), Night(seed=4))]
    tonight = Night(seed=5, shares=(0.37, 0.28, 0.15, 0.1, 0.1))
    found = find(measured(tonight), baselines)
    assert labels_changed(found) == []
    alone = find(measured(tonight), [measured(Night(seed=each)) for each in (2, 3, 4)])
    assert labels_changed(alone) == ["sport"]


def test_with_few_rows_nothing_is_tested() -> None:
    found = find(measured(Night(rows=29, shares=MORE_SPORT)), [measured(Night(seed=2))])
    assert all(each.p_value is None for each in found.figures)
    assert found.labels[""].finding == "few rows"
    assert finding_of(found, "confidence") == "few rows"


def test_an_output_alone_has_values_and_no_findings() -> None:
    found = find(measured(Night(gold_share=0.2)), [])
    values = {each.name: each.value for each in found.figures}
    assert values["rows"] == 350
    assert values["confidence"] == pytest.approx(0.9, abs=0.02)
    assert {each.finding for each in found.figures} == {"not tested"}


def test_other_labels_are_shown_and_not_tested() -> None:
    here, there = Night(labels=("war", "economics", "culture", "science", "sport")), Night(seed=2)
    found = find(measured(here), [measured(there)], {"": [False]})
    shares = found.labels[""]
    assert (shares.p_value, shares.is_other, shares.finding) == (None, True, "not tested")
    assert finding_of(found, "abstained") == "not tested"
    assert {row.label for row in shares.rows} >= {"war", "politics"}
