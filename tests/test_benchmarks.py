"""The benchmark on a tiny model: all engines agree, a report is written, and wrong answers are caught."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import ceilings
from benchmarks.attention_speed import measure_attention
from benchmarks.cache_size import least_tokens, measure_cache
from benchmarks.ceilings import Ceiling
from benchmarks.chart import draw_chart
from benchmarks.check_outputs import check_outputs
from benchmarks.figures import Figure, allowed_label_ratio, figure_of
from benchmarks.goals import goals_of
from benchmarks.limits import forwards_flops, least_work
from benchmarks.model_under_test import SHAPES, WIDTHS, ModelUnderTest
from benchmarks.peers import Peer, all_peers
from benchmarks.peers.label_forwards import LabelForwards
from benchmarks.peers.masked_one_at_a_time import MaskedOneAtATime
from benchmarks.peers.ours import Ours
from benchmarks.peers.ours_trimmed import OursTrimmed
from benchmarks.peers.peer import Outcome, Setting, sample_batches, static_batches, take_turn
from benchmarks.peers.transformers_generate import TransformersGenerate
from benchmarks.pipeline_speed import measure_idle, measure_pipeline
from benchmarks.process_tree import processes_of, sum_bytes
from benchmarks.report import _workload
from benchmarks.rounds import Patience, Turn, probe_rows, run_rounds
from benchmarks.run import _DEFAULT_SLOTS, main
from benchmarks.workloads import WORKLOADS, Row, Workload, build_workload
from tests.model.tiny import use_threads
from tirazh.pipeline.spec import GenerateSpec

TINY, XL = SHAPES["tiny"], SHAPES["xl"]
GIGA = 1e9


@pytest.fixture(scope="module", autouse=True)
def _one_thread_and_no_engines_in_other_environments() -> Iterator[None]:
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.peers.foreign.peer.ENVIRONMENTS", Path("/nonexistent"))
        yield


@pytest.fixture
def under_test(tmp_path: Path) -> ModelUnderTest:
    return ModelUnderTest(TINY, tmp_path)


@pytest.fixture(scope="module")
def report_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("report")
    words = "--shape tiny --threads 1 --rows 4 --repeat 2 --seconds 0.2 --dtypes float32".split()
    words += [word for name in ("ragged", "labels", "samples", "cache") for word in ("--workload", name)]
    with (
        pytest.MonkeyPatch.context() as patch
    ):  # ceilings are measured around every turn; small matmuls keep the test short
        patch.setattr(ceilings, "_CPU_MATMULS", ((64, 128, 256),) * 3)
        patch.setattr(ceilings, "_COPIED_BYTES", {"cpu": 2**20})
        ceilings._host_buffers.cache_clear()
        assert main([*words, "--output", str(directory)]) == 0
        ceilings._host_buffers.cache_clear()
    return directory


def test_all_engines_give_the_same_answers_in_float32(report_dir: Path) -> None:
    checks = json.loads((report_dir / "results.json").read_text())["checks"]
    exact = {check["peer"]: check for check in checks if check["peer"].endswith("float32")}
    assert {"tirazh dense, float32", "tirazh alternating, float32"} <= exact.keys()
    assert [check for check in checks if check["is_good"] is False] == []


def test_the_report_has_every_peer_its_spread_and_its_share_of_the_limit(report_dir: Path) -> None:
    results = json.loads((report_dir / "results.json").read_text())
    present = [peer for peer in all_peers(["float32"], slots=1) if peer.why_absent() is None]
    expected = {peer.name for peer in present}
    assert {figure["peer"] for figure in results["figures"]} == expected
    assert results["machine"]["libraries"].keys() >= {"torch", "transformers"}
    for figure in results["figures"]:
        summary = figure["rates_summary"]
        assert len(figure["seconds"]) == len(figure["whole_seconds"]) == 2
        assert (figure["work"] == figure["work_whole"]) == (figure["num_rows"] == figure["num_rows_whole"])
        assert 0 < summary["min"] <= summary["median"] <= summary["max"]
        assert figure["share_of_limit"] > 0
    assert all(goal["measured"] is not None for goal in results["goals"])


def test_the_report_has_every_section_and_the_chart_is_valid_svg(report_dir: Path) -> None:
    text = (report_dir / "RESULTS.md").read_text()
    assert all(
        f"## {heading}" in text for heading in ("Goals", "The same answers", "ragged", "labels", "cache", "Not run")
    )
    chart = ElementTree.parse(report_dir / "chart.svg")
    shown = [node.text for node in chart.iter("{http://www.w3.org/2000/svg}text")]
    assert "Generation, mixed lengths (ragged)" in shown
    assert "4 rows: prompts of 16 to 512 tokens, 8 to 128 new tokens each; tokens/s, higher is better" in shown


class Wrong(TransformersGenerate):
    """An engine whose last token of the last row is wrong."""

    family = "wrong"

    def run(self, workload: Workload, setting: Setting) -> Outcome:
        outcome = super().run(workload, setting)
        *tokens, last = outcome.tokens[-1]
        outcome.tokens[-1] = (*tokens, (last + 1) % TINY.vocab_size)
        return outcome


def test_a_wrong_token_is_reported_as_a_wrong_answer(under_test: ModelUnderTest) -> None:
    workload = build_workload("uniform", TINY, num_rows=3)
    wrong, right = check_outputs([Wrong("float32"), Ours("float32", "dense", slots=2)], workload, under_test)
    assert (wrong.is_good, wrong.num_equal) == (False, 2)
    assert (right.is_good, right.num_equal) == (True, 3)


class Failing(TransformersGenerate):
    family = "failing"

    def run(self, workload: Workload, setting: Setting) -> Outcome:
        raise RuntimeError("no kernel image")


def test_a_peer_that_fails_is_reported_and_the_other_peers_run(under_test: ModelUnderTest) -> None:
    peers = [Failing("float32"), Ours("float32", "dense", slots=2)]
    workload = build_workload("uniform", TINY, num_rows=2)
    failing, ours = run_rounds(peers, workload, under_test, Patience(repeat=1, seconds=1), _ceiling)
    assert failing.failure == "RuntimeError: no kernel image"
    assert (failing.seconds, len(ours.seconds)) == ([], 1)


class Slow(TransformersGenerate):
    family = "slow"
    probe_rows = 2

    def settings(self, workload: Workload) -> list[Setting]:
        return [{"batch": 1, "order": "prompt"}]

    def run(self, workload: Workload, setting: Setting) -> Outcome:
        return Outcome(seconds=float(len(workload.rows)))


class Narrow(Slow):
    """Takes a time proportional to the width of its dtype."""

    def run(self, workload: Workload, setting: Setting) -> Outcome:
        return Outcome(seconds=WIDTHS[self.dtype] * float(len(workload.rows)))


def test_a_peer_is_measured_once_for_each_width_of_ours_and_at_narrower_ones(under_test: ModelUnderTest) -> None:
    ours = [Ours(dtype, "dense", slots=2, is_main=False) for dtype in ("bfloat16", "float32")]
    peers = [*ours, *(Narrow(dtype) for dtype in ("bfloat16", "float32", "int8"))]
    workload = build_workload("uniform", TINY, num_rows=2)
    turns = run_rounds(peers, workload, under_test, Patience(repeat=1, seconds=100), _ceiling)
    measured = [turn.peer.name for turn in turns if not isinstance(turn.peer, Ours)]
    assert (measured, len(turns)) == (["slow, bfloat16", "slow, float32", "slow, int8"], 5)


def test_a_peer_is_tried_on_fewer_rows_where_rows_are_long() -> None:
    """Sixteen rows of `long` took one engine a quarter of an hour."""
    peer = TransformersGenerate("float32")
    tried = {name: probe_rows(peer, build_workload(name, SHAPES["base"])) for name in ("ragged", "uniform", "long")}
    assert tried == {"ragged": 16, "uniform": 16, "long": 2}
    sizes = {name: {s["batch"] for s in peer.settings(build_workload(name, SHAPES["base"]))} for name in tried}
    assert sizes == {"ragged": {8, 16}, "uniform": {8, 16}, "long": {8}}


def test_a_slow_peer_runs_on_the_sample_that_fits(under_test: ModelUnderTest) -> None:
    workload = build_workload("uniform", TINY, num_rows=12)
    slow = [Slow("float32")]
    (fits,) = run_rounds(slow, workload, under_test, Patience(repeat=1, seconds=5), _ceiling)
    (asked,) = run_rounds(slow, workload, under_test, Patience(repeat=1, seconds=5, samples=3), _ceiling)
    (whole,) = run_rounds(slow, workload, under_test, Patience(repeat=1, seconds=12), _ceiling)
    assert [len(turn.workload.rows) for turn in (fits, asked, whole)] == [5, 3, 12]


def _figure(peer: Peer, whole: Workload, sample: Workload, seconds: list[float]) -> Figure:
    ceilings = [_ceiling(peer.dtype)] * len(seconds)
    turn = Turn(peer=peer, whole=whole, workload=sample, setting={}, seconds=seconds, ceilings=ceilings)
    return figure_of(turn, TINY, slots=2)


def _ceiling(dtype: str, flops: float = GIGA) -> Ceiling:
    return Ceiling(dtype=dtype, flops=flops, decode_flops=flops, bytes_per_second=1e6 * flops)


def _seconds(peer: Peer, workload: Workload, speed: float) -> float:
    """Return the seconds of a peer that does `speed` operations per second on any rows."""
    work = least_work(workload, TINY, peer.mode, slots=1, element_size=4)
    return (work.prefill_flops + work.decode_flops) / speed


def _costly_rows(whole: Workload) -> Workload:
    """Return a sample with the most work per new token: long prompts with few new tokens."""
    return replace(whole, rows=tuple(sorted(whole.rows, key=lambda row: row.num_new / len(row.prompt))[:4]))


@pytest.mark.parametrize("kind", [TransformersGenerate, MaskedOneAtATime], ids=lambda kind: kind.mode)
def test_a_sample_of_other_lengths_gives_the_times_and_rates_of_all_rows(kind: type[Peer]) -> None:
    peer, whole = kind("float32"), build_workload("ragged", TINY, num_rows=64)
    sampled, full = (
        _figure(peer, whole, rows, [_seconds(peer, rows, speed) for speed in (GIGA, 2 * GIGA, 3 * GIGA)])
        for rows in (_costly_rows(whole), whole)
    )
    assert full.whole_seconds == full.seconds
    assert sampled.whole_seconds == pytest.approx(full.seconds)
    assert sampled.rates == pytest.approx([whole.num_new / seconds for seconds in full.seconds])


def test_ratios_are_those_that_all_rows_would_give() -> None:
    """In goals, table and chart. Scaled by a sample's new tokens, one run reported 3.62 where all rows gave 5.2."""
    whole = build_workload("ragged", TINY, num_rows=64)
    sample = _costly_rows(whole)
    ours, slow, peer = Ours("float32", "dense", slots=2), Slow("float32"), TransformersGenerate("float32")
    figures = [
        _figure(ours, whole, whole, [_seconds(ours, whole, 5.2 * GIGA)]),
        _figure(slow, whole, whole, [_seconds(slow, whole, 0.8 * GIGA)]),
        _figure(peer, whole, sample, [_seconds(peer, sample, 1.0 * GIGA)]),
    ]
    # On its sample the faster of the two peers generates fewer tokens per second than the slower one on all rows.
    assert sample.num_new / figures[2].seconds[0] < whole.num_new / figures[1].seconds[0]
    goals = {goal.text: goal.measured for goal in goals_of(figures, allowed_label_ratio=None)}
    assert goals["ragged: over transformers.generate"] == pytest.approx(5.2)
    assert goals["ragged: over the best peer of equal or wider dtype"] == pytest.approx(5.2)
    rows = [line.split("|") for line in _workload("ragged", figures).splitlines() if "float32" in line]
    assert [row[-2].strip() for row in rows] == ["", "5.20", "6.50"]
    shapes = ElementTree.fromstring(draw_chart(figures)).findall("{http://www.w3.org/2000/svg}rect")
    widths = [float(shape.attrib["width"]) for shape in shapes if shape.get("class") in {"local", "peer"}]
    assert [widths[0] / width for width in widths] == pytest.approx([1, 5.2, 6.5], rel=0.01)


def test_a_share_of_the_limit_is_of_what_the_machine_could_do_in_that_round() -> None:
    """On shared cores the second round may be half as fast, in the engine and in the ceiling."""
    ours, whole = Ours("float32", "dense", slots=2), build_workload("ragged", TINY, num_rows=8)
    speeds = [GIGA, 0.5 * GIGA]
    seconds = [_seconds(ours, whole, 0.75 * speed) for speed in speeds]
    ceilings = [_ceiling("float32", speed) for speed in speeds]
    turn = Turn(peer=ours, whole=whole, workload=whole, setting={}, seconds=seconds, ceilings=ceilings)
    assert figure_of(turn, TINY, slots=2).shares_of_limit == pytest.approx([0.75, 0.75])


def test_the_machine_is_measured_between_turns(under_test: ModelUnderTest) -> None:
    workload, order = build_workload("uniform", TINY, num_rows=2), []

    def measure(dtype: str) -> Ceiling:
        order.append(dtype)
        return _ceiling(dtype, GIGA * len(order))

    (turn,) = run_rounds([Slow("float32")], workload, under_test, Patience(repeat=2, seconds=100), measure)
    assert order == ["float32"] * 3
    assert [ceiling.flops / GIGA for ceiling in turn.ceilings] == [1.5, 2.5]


def test_a_sample_of_labels_is_scaled_by_its_rows() -> None:
    whole = build_workload("labels", TINY, num_rows=8)
    ours, forwards = Ours("float32", "dense", slots=2), LabelForwards("float32")
    figures = [_figure(ours, whole, whole, [0.5]), _figure(forwards, whole, whole.sample(2), [1.0])]
    assert [figure.whole_seconds for figure in figures] == [[0.5], [4.0]]
    assert [figure.rate for figure in figures] == [16.0, 2.0]
    goals = {goal.text: goal.measured for goal in goals_of(figures, allowed_label_ratio=10.0)}
    assert goals["labels: over a forward per label"] == 8.0


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_workload_is_the_same_every_time_and_fits_the_model(name: str) -> None:
    workload = build_workload(name, SHAPES["base"])
    assert workload == build_workload(name, SHAPES["base"])
    assert workload.max_length <= SHAPES["base"].num_positions


def test_a_sample_has_the_proportions_of_the_whole_workload() -> None:
    whole = build_workload("ragged", SHAPES["base"])
    sample = whole.sample(32)
    assert len(sample.rows) == 32
    for of in (lambda row: len(row.prompt), lambda row: row.num_new):
        means = [sum(map(of, workload.rows)) / len(workload.rows) for workload in (whole, sample)]
        assert means[1] == pytest.approx(means[0], rel=0.15)


def test_a_sample_of_static_batches_has_batches_of_the_whole() -> None:
    whole = build_workload("ragged", SHAPES["base"])
    sample = sample_batches(whole, 48, 16)
    lengths = [[len(rows[index].prompt) for index in batch] for rows, batch in _batches(sample)]
    assert len(sample.rows) == 48
    assert all(batch in [[len(rows[i].prompt) for i in b] for rows, b in _batches(whole)] for batch in lengths)


def _batches(workload: Workload) -> list[tuple[tuple[Row, ...], list[int]]]:
    return [(workload.rows, batch) for batch in static_batches(workload.rows, 16)]


def test_static_batches_hold_every_row_once_with_similar_rows_together() -> None:
    rows = [Row((0,) * length, 1) for length in (5, 1, 4, 2, 3)]
    assert static_batches(rows, 2) == [[0, 2], [4, 3], [1]]


@pytest.mark.parametrize(("mode", "giga_a_token"), [("dense", 2.617), ("alternating", 2.535)])
def test_a_prompt_of_xl_needs_the_arithmetic_worked_out_by_hand(mode: str, giga_a_token: float) -> None:
    workload = Workload(name="prompt", kind="generate", rows=(Row((0,) * 2048, 1),))
    work = least_work(workload, XL, mode, slots=1, element_size=2)  # type: ignore[arg-type]
    logits = 2 * XL.hidden_size * XL.vocab_size
    assert (work.prefill_flops - logits) / 2048 / GIGA == pytest.approx(giga_a_token, abs=1e-3)


def test_labels_of_xl_need_the_arithmetic_worked_out_by_hand() -> None:
    labels = tuple((label, 100 + label) for label in range(10))
    one = Workload(name="labels", kind="labels", rows=(Row((0,) * 1320),), prefix=(0,) * 1200, labels=labels)
    many = replace(one, rows=one.rows * 1000)
    prefix = Workload(name="prefix", kind="generate", rows=(Row((0,) * 1200, 1),))
    a_row = _giga(many) / 1000 - (_giga(prefix) - 0.206) / 1000
    # 130 tokens of 2.416 in matmuls and 0.249 in attention over 1,267 keys on average, 11 rows of logits of 0.206.
    assert a_row == pytest.approx(349, abs=0.5)
    # 13,210 tokens of 2.416 and 0.130 (661 keys), 20 rows of logits.
    assert forwards_flops(one, XL, "dense") / GIGA == pytest.approx(33_637, rel=1e-3)
    assert allowed_label_ratio(many, XL) == pytest.approx(33_637 / (349 + 3.05), rel=1e-2)


def test_our_engine_has_the_default_slots_of_a_job() -> None:
    job = GenerateSpec(input=("a.parquet",), output="out")
    assert {device: job.slots_on(device) for device in ("cpu", "cuda")} == _DEFAULT_SLOTS


def test_steps_without_padding_give_the_same_tokens(under_test: ModelUnderTest) -> None:
    workload = build_workload("ragged", TINY, num_rows=5)
    padded, trimmed = (kind("float32", "dense", slots=3) for kind in (Ours, OursTrimmed))
    answers = []
    for peer in (padded, trimmed):
        peer.open(under_test, workload, peer.settings(workload)[0])
        answers.append(peer.run(workload, peer.settings(workload)[0]).tokens)
    assert answers[0] == answers[1]


def test_a_turn_restores_the_number_of_threads(under_test: ModelUnderTest) -> None:
    class Greedy(Ours):
        def run(self, workload: Workload, setting: Setting) -> Outcome:
            torch.set_num_threads(1)
            return Outcome(seconds=1)

    with use_threads(3):
        take_turn(
            Greedy("float32", "dense", slots=3), under_test, build_workload("ragged", TINY, num_rows=1), {"slots": 3}
        )
        assert torch.get_num_threads() == 3


def test_the_least_that_a_sparse_layer_can_cache_is_what_its_layout_still_shows() -> None:
    least = least_tokens(SHAPES["base"])
    # A whole window; the next token closes it and leaves 16; then fifteen closed windows and a whole one.
    assert (least[127], least[128], least[2047]) == (128, 17, 15 * 16 + 128)


def test_a_sparse_layer_caches_the_least_at_every_length() -> None:
    (*slots, lengths) = measure_cache(SHAPES["base"]).goals
    assert (lengths.measured, lengths.is_met) == (2048, True)
    assert all(goal.is_met for goal in slots)


def test_sparse_and_dense_attention_take_turns() -> None:
    experiment = measure_attention(TINY, ["float32"], "cpu", seconds=0.01)
    assert [row[0] for row in experiment.rows] == [2048, 1024, 512]
    assert all(goal.measured is not None and goal.measured > 0 for goal in experiment.goals)


def test_memory_of_a_process_counts_what_it_started() -> None:
    """Eighty megabytes in a grandchild process, and in no other."""
    hold = "import time; held = bytearray(80_000_000); print(flush=True); time.sleep(60)"
    start = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}])"
    with subprocess.Popen([sys.executable, "-c", start], stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        num_bytes = sum_bytes(processes_of(process.pid))
        os.killpg(process.pid, signal.SIGKILL)
    assert 80_000_000 < num_bytes < 140_000_000


@pytest.mark.slow
@pytest.mark.ray
def test_the_pipeline_gives_the_bare_engines_text_and_the_idle_engine_all_rows(under_test: ModelUnderTest) -> None:
    pipeline = measure_pipeline(under_test, dtype="float32", slots=4, threads=1, part_seconds=0.2)
    num_rows = 3 * int(pipeline.how.split(" ragged rows")[0].split()[-1])
    assert f"{num_rows} of {num_rows} completions are the same text" in pipeline.how
    idle = measure_idle(under_test.workdir, row_counts=(2_000,))
    assert [row[0] for row in idle.rows] == [2_000]
    assert all(goal.measured is not None and goal.measured > 0 for goal in (*pipeline.goals, *idle.goals))


def _giga(workload: Workload) -> float:
    return least_work(workload, XL, "dense", slots=1, element_size=2).prefill_flops / GIGA
