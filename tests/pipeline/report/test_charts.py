"""The diagrams: they stay in their frames, and their texts say what they show."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tirazh.pipeline.report.charts import confidence_chart, timeline_charts

counts = st.lists(st.integers(0, 10**6), min_size=20, max_size=20)
samples = st.lists(
    st.fixed_dictionaries(
        {
            "s": st.floats(0, 10**5),
            "rows": st.integers(0, 10**6),
            "tokens": st.integers(0, 10**9),
            "replicas": st.integers(0, 9),
        }
    ),
    max_size=60,
)


@given(counts)
def test_a_histogram_has_a_bar_for_every_range_with_rows(confidences: list[int]) -> None:
    chart = confidence_chart(confidences, title="Confidence", threshold=0.4, caption="")
    if not any(confidences):
        assert chart is None
        return
    assert chart is not None
    assert len(chart.bars) == sum(count > 0 for count in confidences)
    assert chart.mark == 40
    for x, y, width, height, _ in chart.bars:
        assert 0 <= x <= 100 - width
        assert y + height == pytest.approx(100, abs=0.02)


@given(samples)
def test_a_timeline_stays_in_its_frame(timeline: list[dict[str, Any]]) -> None:
    for chart in timeline_charts(timeline):
        numbers = [float(each) for each in re.findall(r"[\d.]+", chart.area)]
        assert all(0 <= number <= 100 for number in numbers)


def test_a_timeline_shows_speed_and_replicas() -> None:
    timeline = [
        {"s": 10.0, "rows": 0, "tokens": 0, "replicas": 0},
        {"s": 20.0, "rows": 10, "tokens": 5_000, "replicas": 1},
        {"s": 30.0, "rows": 40, "tokens": 20_000, "replicas": 2},
    ]
    speed, replicas = timeline_charts(timeline)
    assert speed.caption == "667 on average, 1,500 at most."
    assert speed.line == "M0.00 100.00 L33.33 100.00 L33.33 66.67 L66.67 66.67 L66.67 0.00 L100.00 0.00"
    assert replicas.caption == "2 replicas at most. The first one worked after 20\N{NO-BREAK SPACE}s."
    assert (speed.unit, replicas.unit) == ("tokens per second", "replicas")


@pytest.mark.parametrize("timeline", [None, [], "text", [1, 2, 3], [{"s": 1}], [{"s": "x", "rows": 1}] * 5])
def test_a_manifest_without_a_timeline_has_no_diagram(timeline: Any) -> None:
    assert timeline_charts(timeline) == ()
