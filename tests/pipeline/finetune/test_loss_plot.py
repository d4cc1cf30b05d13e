"""The loss plot: valid SVG, curves inside the frame, and a small file for any number of steps."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from typing import Any

from tirazh.pipeline.finetune.loss_plot import HEIGHT, WIDTH, draw_losses


def log_of(steps: int, **evaluation: float) -> list[dict[str, Any]]:
    log: list[dict[str, Any]] = [{"step": step, "loss": 6 / math.sqrt(step)} for step in range(1, steps + 1)]
    return [*log, {"step": steps, **evaluation}] if evaluation else log


def points(svg: str) -> list[tuple[float, float]]:
    found = re.findall(r"points='([^']*)'", svg)
    return [(float(x), float(y)) for line in found for x, y in (pair.split(",") for pair in line.split())]


def test_a_falling_loss_is_drawn_inside_the_frame() -> None:
    svg = draw_losses(log_of(50, perplexity=9.0), title="my <model>")
    ElementTree.fromstring(svg)
    curve = points(svg)
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in curve)
    assert curve[0][1] < curve[49][1]  # y grows downwards
    assert "my &lt;model&gt;" in svg


def test_a_long_training_run_gives_a_small_plot() -> None:
    assert len(points(draw_losses(log_of(100_000), title="x"))) <= 800


def test_an_empty_log_and_non_finite_losses_give_a_valid_plot() -> None:
    for log in ([], [{"step": 1, "loss": float("nan")}, {"step": 1, "stopped": "nan"}], log_of(1)):
        ElementTree.fromstring(draw_losses(log, title="x"))
