"""The report compares our engine with the best of the others by the width of numbers, and so do the goals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import run
from benchmarks.figures import Figure
from benchmarks.goals import goals_of
from benchmarks.hog import measure_busy
from benchmarks.model_under_test import SHAPES, ModelUnderTest
from benchmarks.peers.foreign import peer as foreign
from benchmarks.peers.ours import Ours
from benchmarks.peers.peer import Outcome, Setting
from benchmarks.peers.transformers_generate import TransformersGenerate
from benchmarks.report import _widths, _workload
from benchmarks.widths import pairs_of
from benchmarks.workloads import Workload, build_workload

TINY = SHAPES["tiny"]


def _figure(workload: str, family: str, dtype: str, seconds: float) -> Figure:
    return Figure(
        workload=workload,
        peer=f"{family}, {dtype}",
        family=family,
        dtype=dtype,
        layers="dense",
        role="ours" if family == "tirazh" else "peer",
        version="",
        setting={},
        num_rows=8,
        num_rows_whole=8,
        work=1.0,
        work_whole=1.0,
        amount_whole=100,
        unit="tokens/s",
        seconds=[seconds],
        shares_of_limit=[0.5],
        ceiling_dtype=dtype,
        failure=None,
    )


def _ragged(name: str = "ragged") -> list[Figure]:
    return [
        _figure(name, "tirazh", "bfloat16", 10.0),
        _figure(name, "tirazh", "float32", 25.0),
        _figure(name, "OpenVINO GenAI", "bfloat16", 14.0),
        _figure(name, "OpenVINO GenAI", "int8", 9.0),
        _figure(name, "vLLM", "bfloat16", 15.0),
        _figure(name, "CTranslate2", "float32", 50.0),
    ]


def _compared(figures: Sequence[Figure]) -> list[tuple[str, str | None, float | None]]:
    return [(pair.dtype, pair.peer.peer if pair.peer else None, pair.ratio) for pair in pairs_of(figures)]


def test_each_width_has_the_best_peer_that_is_as_wide_or_wider() -> None:
    assert _compared(_ragged()) == [
        ("float32", "CTranslate2, float32", 2.0),
        ("bfloat16", "OpenVINO GenAI, bfloat16", 1.4),
        ("int8", "OpenVINO GenAI, int8", None),
    ]


def test_our_int8_is_compared_with_the_best_of_all_widths() -> None:
    figures = [*_ragged(), _figure("ragged", "tirazh", "int8", 7.5)]
    assert _compared(figures)[-1] == ("int8", "OpenVINO GenAI, int8", pytest.approx(1.2))
    assert _compared(figures)[1] == ("bfloat16", "OpenVINO GenAI, bfloat16", 1.4)


def test_the_report_names_the_best_peer_of_each_width() -> None:
    lines = _widths(_ragged()).splitlines()
    assert "| ragged | bfloat16 | 10 tokens/s | OpenVINO GenAI, bfloat16 | 7.143 | 1.40 |" in lines
    assert "| ragged | int8 | – | OpenVINO GenAI, int8 | 11.11 |  |" in lines
    assert _widths([_figure("ragged", "tirazh", "bfloat16", 1.0)]) == ""


def test_a_wide_peer_is_not_compared_with_our_int8() -> None:
    figures = [*_ragged(), _figure("ragged", "tirazh", "int8", 7.5)]
    lines = [line for line in _workload("ragged", figures).splitlines() if "OpenVINO" in line]
    ratios = {line.split("|")[1].strip(): line.split("|")[-2].strip() for line in lines}
    assert ratios == {"OpenVINO GenAI, bfloat16": "1.40", "OpenVINO GenAI, int8": "1.20"}


def test_the_goals_are_about_equal_widths() -> None:
    goals = {goal.text: goal for goal in goals_of([*_ragged(), *_ragged("small")], allowed_label_ratio=None)}
    over = {name: goals[f"{name}: over the best peer of equal or wider dtype"] for name in ("ragged", "small")}
    assert {name: (goal.goal, goal.measured) for name, goal in over.items()} == {
        "ragged": (1.25, 1.4),
        "small": (1.2, 1.4),
    }
    assert not any("int8" in text for text in goals)


def test_our_int8_has_goals_of_its_own() -> None:
    figures = [*_ragged(), _figure("ragged", "tirazh", "int8", 7.5)]
    goals = {goal.text: goal for goal in goals_of(figures, allowed_label_ratio=None)}
    assert goals["ragged: over the best peer of equal or wider dtype"].measured == 1.4
    assert goals["ragged, int8: over our wider dtype"].measured == pytest.approx(4 / 3)
    assert goals["ragged, int8: over OpenVINO, int8"].measured == pytest.approx(1.2)


class Other(TransformersGenerate):
    """Takes two seconds, beside the busy process as well."""

    family = "other"

    def run(self, workload: Workload, setting: Setting) -> Outcome:
        return Outcome(seconds=2.0)


class Broken(Other):
    family = "broken"

    def run(self, workload: Workload, setting: Setting) -> Outcome:
        raise RuntimeError("no threads")


def test_beside_a_busy_process_the_engines_are_compared_with_ours(tmp_path: Path) -> None:
    ours = Ours("float32", "dense", slots=2)
    workload = build_workload("uniform", TINY, num_rows=2)
    peers = [ours, Other("float32"), Other("bfloat16"), Broken("float32")]
    experiment = measure_busy(ModelUnderTest(TINY, tmp_path), workload, peers, repeat=1)
    assert [row[0] for row in experiment.rows] == ["tirazh dense, float32", "other, float32", "other, bfloat16"]
    assert "broken, float32 failed: RuntimeError: no threads" in experiment.how
    busy = float(experiment.rows[0][2])
    quiet_goal, peer_goal = experiment.goals
    assert quiet_goal.measured == pytest.approx(float(experiment.rows[0][1]) / busy)
    assert peer_goal.measured == pytest.approx(2.0 / busy)


def test_engines_are_chosen_by_words_in_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "ENVIRONMENTS", tmp_path)
    words = ["--dtypes", "float32", "--peer", "Tirazh dense", "--peer", "vllm"]
    options = run._parse(words)
    present, absent = run._present(run.all_peers(options.dtypes, slots=2), options)
    assert [peer.name for peer in present] == ["tirazh dense, float32", "tirazh dense, int8"]
    assert absent["vLLM, float32"] == "no environment .bench/vllm (make bench-peers)"
    assert not any(name.startswith("CTranslate2") for name in absent)
