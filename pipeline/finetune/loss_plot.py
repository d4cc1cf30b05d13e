"""Draws the loss curve of a training run as a small SVG, without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

WIDTH, HEIGHT = 860, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 20, 40, 45
_MAX_POINTS = 800
_TICKS = 5
Point = tuple[float, float]


def draw_losses(log: Sequence[dict[str, Any]], *, title: str) -> str:
    """Return an SVG of the training loss and of the held-out loss (log of the perplexity), if there is one."""
    train = _thinned([(entry["step"], entry["loss"]) for entry in log if _is_number(entry.get("loss"))])
    held_out = [(entry["step"], math.log(entry["perplexity"])) for entry in log if _is_number(entry.get("perplexity"))]
    points = [*train, *held_out]
    if not points:
        return _page(title, ["<text x='60' y='80'>no steps yet</text>"])
    bounds = _bounds(points)
    shapes = [*_axes(bounds), _line(train, bounds, "#3465a4")]
    if held_out:
        shapes += [_line(held_out, bounds, "#c4551d")]
        shapes += [f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3' fill='#c4551d'/>" for x, y in _to_pixels(held_out, bounds)]
        shapes.append(f"<text x='{WIDTH - _RIGHT - 90}' y='{_TOP + 32}' fill='#c4551d'>held out</text>")
    shapes.append(f"<text x='{WIDTH - _RIGHT - 90}' y='{_TOP + 15}' fill='#3465a4'>training</text>")
    return _page(title, shapes)


def _thinned(points: Sequence[Point]) -> list[Point]:
    """Average groups of neighbouring points, so that a long curve stays a small file."""
    size = max(1, math.ceil(len(points) / _MAX_POINTS))
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def _bounds(points: Sequence[Point]) -> tuple[float, float, float, float]:
    xs, ys = zip(*points, strict=True)
    low, high = min(ys), max(ys)
    margin = (high - low) * 0.05 or 0.5
    return 0.0, max(xs), low - margin, high + margin


def _to_pixels(points: Sequence[Point], bounds: tuple[float, float, float, float]) -> list[Point]:
    left, right, low, high = bounds
    wide, tall = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
    return [(_LEFT + wide * (x - left) / (right - left), _TOP + tall * (high - y) / (high - low)) for x, y in points]


def _line(points: Sequence[Point], bounds: tuple[float, float, float, float], colour: str) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in _to_pixels(points, bounds))
    return f"<polyline fill='none' stroke='{colour}' stroke-width='1.5' points='{path}'/>"


def _axes(bounds: tuple[float, float, float, float]) -> list[str]:
    left, right, low, high = bounds
    shapes = []
    for tick in range(_TICKS + 1):
        x, y = left + (right - left) * tick / _TICKS, low + (high - low) * tick / _TICKS
        ((x_pixel, _),) = _to_pixels([(x, low)], bounds)
        ((_, y_pixel),) = _to_pixels([(left, y)], bounds)
        shapes += [
            f"<line x1='{_LEFT}' x2='{WIDTH - _RIGHT}' y1='{y_pixel:.1f}' y2='{y_pixel:.1f}' stroke='#ddd'/>",
            f"<text x='{_LEFT - 8}' y='{y_pixel + 4:.1f}' text-anchor='end'>{y:.2f}</text>",
            f"<text x='{x_pixel:.1f}' y='{HEIGHT - _BOTTOM + 18}' text-anchor='middle'>{x:,.0f}</text>",
        ]
    shapes.append(f"<text x='{WIDTH / 2:.0f}' y='{HEIGHT - 8}' text-anchor='middle'>steps</text>")
    return shapes


def _page(title: str, shapes: Sequence[str]) -> str:
    kind = f"xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}'"
    head = f"<svg {kind} font-family='sans-serif' font-size='12'>"
    white = f"<rect width='{WIDTH}' height='{HEIGHT}' fill='white'/>"
    name = f"<text x='{_LEFT}' y='22' font-size='14'>{escape(title)}: loss, nats a token</text>"
    return "\n".join([head, white, name, *shapes, "</svg>"]) + "\n"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0
