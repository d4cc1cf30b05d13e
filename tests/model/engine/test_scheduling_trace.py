"""The engine makes the same steps as in the committed trace: same segments, rows, fresh slots
and results."""

from __future__ import annotations

import pytest

from tests.model.engine.workloads import TRACE, WORKLOADS, trace


def recorded() -> dict[str, list[str]]:
    traces: dict[str, list[str]] = {}
    for line in TRACE.read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            traces[line.removeprefix("# ")] = current = []
        else:
            current.append(line)
    return traces


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_mixed_workload_makes_the_recorded_steps_and_results(name: str) -> None:
    assert trace(WORKLOADS[name]) == recorded()[name]


def test_the_trace_covers_both_phases_label_tries_prefixes_dirty_slots_and_every_end() -> None:
    text = TRACE.read_text(encoding="utf-8")
    wanted = ("prefill 64 ", "decode 8 ", "* ", "p,", "z", ": stop", ": length", ": error", "cut at", "scores")
    for part in wanted:
        assert part in text, part
