"""The samples of a run's progress: few, evenly spaced, the last one included."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from tirazh.pipeline.execution.metrics import ProgressEvent
from tirazh.pipeline.execution.timeline import MOST_SAMPLES, Timeline


def event(elapsed_s: float, rows: int = 0, replicas: int = 1) -> ProgressEvent:
    return ProgressEvent(
        rows_done=rows,
        rows_total=10_000,
        rows_resumed=0,
        parts_done=0,
        parts_total=10,
        error_rows=0,
        prompt_tokens=3 * rows,
        completion_tokens=rows,
        replicas=replicas,
        elapsed_s=elapsed_s,
    )


def timeline_of(times: list[float]) -> Timeline:
    timeline = Timeline()
    for number, time in enumerate(times):
        timeline.add(event(time, rows=number))
    return timeline


def test_a_sample_has_rows_tokens_and_replicas() -> None:
    timeline = Timeline()
    timeline.add(event(1.04, rows=5, replicas=2))
    assert timeline.facts() == [{"s": 1.0, "rows": 5, "tokens": 20, "replicas": 2}]


def test_a_run_without_events_has_no_samples() -> None:
    assert Timeline().facts() == []


def test_a_long_run_has_few_samples_that_cover_it_evenly() -> None:
    times = [float(second) for second in range(36_000)]
    found = [sample["s"] for sample in timeline_of(times).facts()]
    assert MOST_SAMPLES / 2 <= len(found) <= MOST_SAMPLES
    gaps = [later - earlier for earlier, later in itertools.pairwise(found)]
    assert len(set(gaps[:-1])) == 1
    assert (found[0], found[-1]) == (0.0, 35_999.0)


@given(st.lists(st.floats(0, 100), max_size=300))
def test_there_are_never_more_samples_and_the_last_event_is_the_last_one(steps: list[float]) -> None:
    times = [sum(steps[: index + 1]) for index in range(len(steps))]
    found = timeline_of(times).facts()
    assert len(found) <= MOST_SAMPLES
    assert [sample["s"] for sample in found] == sorted({sample["s"] for sample in found})
    assert not times or found[-1]["s"] == round(times[-1], 1)
