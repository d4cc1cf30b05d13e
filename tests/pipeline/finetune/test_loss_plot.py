"""The plot of a training: valid SVG, round ticks from 0, texts and curves inside the page, and a small file."""

from __future__ import annotations

import itertools
import math
import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from tests.docs.test_pictures import texts_outside
from tirazh.pipeline.finetune.loss_plot import HEIGHT, WIDTH, draw_losses

Log = list[dict[str, Any]]


def log_of(steps: int, **evaluation: float) -> Log:
    log: Log = [{"step": step, "loss": 6 / math.sqrt(step)} for step in range(1, steps + 1)]
    return [*log, {"step": steps, **evaluation}] if evaluation else log


def points(svg: str) -> list[tuple[float, float]]:
    found = re.findall(r"points='([^']*)'", svg)
    return [(float(x), float(y)) for line in found for x, y in (pair.split(",") for pair in line.split())]


def left_ticks(svg: str) -> list[list[float]]:
    """The numbers at the left axis of each panel, from the bottom to the top."""
    found = re.findall(r"<text x='62' y='([\d.]+)' text-anchor='end'>([\d.,]+)</text>", svg)
    panels: list[list[float]] = [[], []]
    for y, text in found:
        panels[float(y) > 340].append(float(text.replace(",", "")))
    return panels


def test_a_falling_loss_is_drawn_inside_the_frame() -> None:
    svg = draw_losses(log_of(50, perplexity=9.0), title="my <model>")
    ElementTree.fromstring(svg)
    curve = points(svg)
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in curve)
    assert curve[0][1] < curve[49][1]  # y grows downwards
    assert "my &lt;model&gt;" in svg


@pytest.mark.parametrize("top", [0.004, 0.31, 1.0, 7.04, 44.0, 1234.5])
def test_the_axes_begin_at_zero_and_have_round_ticks(top: float) -> None:
    log: Log = [{"step": step, "loss": top * (1 - step / 120)} for step in range(1, 61)]
    losses, figures = left_ticks(draw_losses([*log, {"step": 60, "accuracy": 0.7, "macro_f1": 0.6}], title="x"))
    assert losses[0] == figures[0] == 0
    assert losses[-1] >= 0.99 * top
    assert figures[-1] == 1
    for ticks in (losses, figures):
        sizes = {f"{high - low:.3e}" for low, high in itertools.pairwise(ticks)}
        assert len(sizes) == 1
        assert sizes.pop()[:5] in ("1.000", "2.000", "5.000")


def test_a_spike_at_the_start_does_not_flatten_the_rest() -> None:
    log: Log = [{"step": step, "loss": 7.0 if step == 1 else 0.5 + 0.3 / step} for step in range(1, 61)]
    losses, _ = left_ticks(draw_losses(log, title="x"))
    assert losses[-1] <= 1.5


def test_a_training_with_labels_shows_their_accuracy_and_one_without_the_perplexity() -> None:
    labelled = draw_losses(log_of(20, accuracy=0.7, macro_f1=0.6), title="x")
    assert "accuracy" in labelled
    assert "macro-F1" in labelled
    assert "perplexity" not in labelled
    assert "perplexity" in draw_losses(log_of(20, perplexity=3.0), title="x")


def test_raw_losses_and_their_running_mean_are_drawn() -> None:
    log: Log = [{"step": step, "loss": 2.0 + (-1) ** step} for step in range(1, 201)]
    thin, smooth = re.findall(r"<polyline[^>]*points='([^']*)'", draw_losses(log, title="x"))
    heights = [{pair.split(",")[1] for pair in line.split()[20:]} for line in (thin, smooth)]
    assert [len(each) for each in heights] == [2, 1]


def test_a_training_that_went_on_from_a_checkpoint_begins_at_its_step() -> None:
    svg = draw_losses([{"step": step, "loss": 1.0} for step in range(601, 691)], title="x")
    ticks = re.findall(r"y='328' text-anchor='\w+'>([\d,]+)<", svg)
    assert int(ticks[0]) == 600
    assert all(int(tick) % 10 == 0 for tick in ticks)


@pytest.mark.parametrize(
    "log",
    [
        log_of(50, perplexity=9.0),
        log_of(123_456, accuracy=0.5, macro_f1=0.4),
        log_of(3, perplexity=math.exp(700)),
        [{"step": 1, "loss": 1e30}, {"step": 2, "loss": 1e30}],
        [],
    ],
)
def test_every_text_is_inside_the_page(log: Log) -> None:
    assert texts_outside(draw_losses(log, title="модель с длинным названием " * 9)) == []


def test_a_long_training_run_gives_a_small_plot() -> None:
    assert len(points(draw_losses(log_of(100_000), title="x"))) <= 1_600


def test_an_empty_log_and_non_finite_losses_give_a_valid_plot() -> None:
    for log in ([], [{"step": 1, "loss": float("nan")}, {"step": 1, "stopped": "nan"}], log_of(1)):
        ElementTree.fromstring(draw_losses(log, title="x"))
