"""Draws the curves of a training run as a small SVG, without a plotting library.

The upper panel has the losses: that of each step, thin; its running mean; and the held-out loss. Its axis begins at 0
and ends where nearly all losses lie, so that a spike at the start does not flatten the rest. The lower panel has
accuracy and macro-F1 in [0, 1] where labels are evaluated, and else the perplexity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from tirazh.model.training.selection import evaluations

WIDTH, HEIGHT = 860, 560
_LEFT, _RIGHT = 70, 20
_MAX_POINTS = 800
_SMOOTHED_OVER = 20  # steps of the running mean, at most
_CHARACTER = 7.2  # the width of a character at 12 pixels, on the safe side
_LONGEST_TITLE = 45  # characters
_MOST = 1e6  # larger values are drawn as this one
_TRAINING, _HELD_OUT, _SECOND = "#3465a4", "#c4551d", "#4e7a1f"
Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ticks:
    """Ticks at multiples of 1, 2 or 5 times a power of 10. The axis begins at `low`, a tick, and ends at `high`."""

    low: float
    high: float
    step: float

    @property
    def values(self) -> list[float]:
        count = math.floor((self.high - self.low) / self.step + 1e-9)
        return [self.low + number * self.step for number in range(count + 1)]

    def text(self, value: float) -> str:
        digits = max(0, -math.floor(math.log10(self.step) + 1e-9))
        return f"{value:,.{digits}f}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """A line of the plot. A thin one has no entry in the key."""

    name: str
    points: Sequence[Point]
    colour: str
    is_thin: bool = False
    has_dots: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class _Panel:
    """A rectangle with axes, from `top` to `bottom`. Values above the axis are drawn at its edge."""

    top: int
    bottom: int
    x: Ticks
    y: Ticks

    def pixels(self, points: Sequence[Point]) -> list[Point]:
        wide, tall = WIDTH - _LEFT - _RIGHT, self.bottom - self.top
        across, up = self.x.high - self.x.low, self.y.high - self.y.low
        return [
            (
                _LEFT + wide * (x - self.x.low) / across,
                self.bottom - tall * (min(max(y, self.y.low), self.y.high) - self.y.low) / up,
            )
            for x, y in points
        ]


def draw_losses(log: Sequence[Mapping[str, Any]], *, title: str) -> str:
    """Return an SVG of the curves in a training's log."""
    train = [(entry["step"], min(entry["loss"], _MOST)) for entry in log if _is_number(entry.get("loss"))]
    measured = evaluations(log)
    held_out = [(x, math.log(y)) for x, y in _figures(measured, "perplexity") if y > 0]
    steps = [point[0] for point in train] + [entry["step"] for entry in measured]
    if not (train or held_out):
        return _page(title, ["<text x='70' y='80'>no steps yet</text>"])
    smooth = _running_mean(train)
    losses = [
        Curve(name="a step's loss", points=_thinned(train), colour=_TRAINING, is_thin=True),
        Curve(name="training loss", points=_thinned(smooth), colour=_TRAINING),
        Curve(name="held-out loss", points=held_out, colour=_HELD_OUT, has_dots=True),
    ]
    top = _reasonable_top([y for _, y in train], [y for _, y in held_out])
    x = _step_ticks(min(steps), max(steps))
    shapes = _draw_panel(_Panel(top=60, bottom=310, x=x, y=_ticks(0.0, top)), losses, "loss, nats a token")
    name, second, high = _second_panel(measured)
    shapes += _draw_panel(_Panel(top=370, bottom=505, x=x, y=_ticks(0.0, high)), second, name)
    shapes.append(f"<text x='{WIDTH / 2:.0f}' y='{HEIGHT - 12}' text-anchor='middle'>steps</text>")
    return _page(title, shapes)


def _second_panel(measured: Sequence[Mapping[str, Any]]) -> tuple[str, list[Curve], float]:
    """Return the lower panel's name, its curves and the end of its axis."""
    accuracy, f1 = _figures(measured, "accuracy"), _figures(measured, "macro_f1")
    if accuracy:
        curves = [
            Curve(name="accuracy", points=accuracy, colour=_SECOND, has_dots=True),
            Curve(name="macro-F1", points=f1, colour=_HELD_OUT, has_dots=True),
        ]
        return "held-out rows", curves, 1.0
    found = _figures(measured, "perplexity")
    if not found:
        return "no evaluations", [], 1.0
    curve = Curve(name="perplexity", points=found, colour=_SECOND, has_dots=True)
    return "held-out rows", [curve], _reasonable_top([y for _, y in found[1:]] or [found[0][1]])


def _draw_panel(panel: _Panel, curves: Sequence[Curve], name: str) -> list[str]:
    shapes = [f"<text x='{_LEFT}' y='{panel.top - 10}'>{escape(name)}</text>"]
    for value in panel.y.values:
        ((_, y),) = panel.pixels([(panel.x.low, value)])
        shapes.append(f"<line x1='{_LEFT}' x2='{WIDTH - _RIGHT}' y1='{y:.1f}' y2='{y:.1f}' stroke='#ddd'/>")
        shapes.append(f"<text x='{_LEFT - 8}' y='{y + 4:.1f}' text-anchor='end'>{panel.y.text(value)}</text>")
    for value in panel.x.values:
        ((x, _),) = panel.pixels([(value, 0.0)])
        anchor = "end" if x > WIDTH - 40 else "middle"
        shapes.append(f"<text x='{x:.1f}' y='{panel.bottom + 18}' text-anchor='{anchor}'>{panel.x.text(value)}</text>")
    right = float(WIDTH - _RIGHT)
    for curve in curves:
        if not curve.points:
            continue
        shapes.append(_line(panel, curve))
        if curve.has_dots:
            pixels = panel.pixels(curve.points)
            shapes += [f"<circle cx='{x:.1f}' cy='{y:.1f}' r='2.5' fill='{curve.colour}'/>" for x, y in pixels]
        if not curve.is_thin:
            place = f"x='{right:.0f}' y='{panel.top - 10}' text-anchor='end'"
            shapes.append(f"<text {place} fill='{curve.colour}'>{curve.name}</text>")
            right -= len(curve.name) * _CHARACTER + 16
    return shapes


def _line(panel: _Panel, curve: Curve) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in panel.pixels(curve.points))
    look = "stroke-width='1' stroke-opacity='0.35'" if curve.is_thin else "stroke-width='1.8'"
    return f"<polyline fill='none' stroke='{curve.colour}' {look} points='{path}'/>"


def _figures(measured: Sequence[Mapping[str, Any]], name: str) -> list[Point]:
    return [(entry["step"], min(entry[name], _MOST)) for entry in measured if _is_number(entry.get(name))]


def _running_mean(points: Sequence[Point]) -> list[Point]:
    """Return the mean over the last steps, fewer in a short training."""
    size = max(1, min(_SMOOTHED_OVER, len(points) // 10))
    means, total = [], 0.0
    for number, (x, y) in enumerate(points):
        total += y
        if number >= size:
            total -= points[number - size][1]
        means.append((x, total / min(size, number + 1)))
    return means


def _thinned(points: Sequence[Point]) -> list[Point]:
    """Average groups of neighbouring points, so that a long curve stays a small file."""
    size = max(1, math.ceil(len(points) / _MAX_POINTS))
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def _reasonable_top(*groups: Sequence[float]) -> float:
    """Return a value above nearly all values: a spike in one of twenty does not count if it is far above the others."""
    values = sorted(value for group in groups for value in group)
    most, usual = values[-1], values[math.ceil(0.95 * len(values)) - 1]
    return most if most <= 1.5 * usual else 1.25 * usual


def _ticks(low: float, high: float, *, most: int = 6) -> Ticks:
    """Return ticks from `low` to the first tick at or above `high`."""
    span = high - low if high > low else 1.0
    size = next(size for size in _sizes(span / most) if span / size <= most)
    return Ticks(low=low, high=low + math.ceil(span / size - 1e-9) * size, step=size)


def _step_ticks(first: int, last: int) -> Ticks:
    """Return whole steps; the axis ends at the last one. It begins at 0, or below where a training went on."""
    span = max(1, last - first)
    size = next(size for size in _sizes(max(1.0, span / 10)) if span / size <= 10 and size >= 1)
    low = math.floor(first / size) * size if first > span else 0.0
    return Ticks(low=low, high=float(max(last, low + 1)), step=size)


def _sizes(least: float) -> list[float]:
    """Return 1, 2 and 5 times the powers of 10 around `least`, ascending."""
    power = math.floor(math.log10(least))
    return [factor * 10.0**exponent for exponent in range(power - 1, power + 3) for factor in (1, 2, 5)]


def _page(title: str, shapes: Sequence[str]) -> str:
    kind = f"xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}'"
    head = f"<svg {kind} font-family='sans-serif' font-size='12'>"
    white = f"<rect width='{WIDTH}' height='{HEIGHT}' fill='white'/>"
    shown = title if len(title) <= _LONGEST_TITLE else f"{title[: _LONGEST_TITLE - 1]}…"
    name = f"<text x='{_LEFT}' y='24' font-size='14'>{escape(shown)}</text>"
    return "\n".join([head, white, name, *shapes, "</svg>"]) + "\n"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value >= 0
