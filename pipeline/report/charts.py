"""The shapes of the diagrams of a page. A diagram is 100 wide and 100 high; the page stretches it and writes the axes
beside it, so that their texts have the same size on every screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tirazh.pipeline.report.words import counted, duration_text, rate_text, share_text

# The width and the height of a diagram.
SIZE = 100.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """A diagram with its axes.

    `bars` are (x, y, width, height, text); `line` is the path of a line and `area` that of the area below it.
    `top` and `bottom` are the ends of the vertical axis, `ticks` the texts below the horizontal one, evenly spaced.
    `mark` is the x of a vertical line, whose meaning is in `caption`. `unit` names the vertical axis.
    """

    title: str
    unit: str
    ticks: tuple[str, ...]
    top: str
    bottom: str = "0"
    axis: str = ""
    caption: str = ""
    bars: tuple[tuple[float, float, float, float, str], ...] = ()
    line: str = ""
    area: str = ""
    guide: str = ""
    mark: float | None = None


def confidence_chart(confidences: Sequence[int], *, title: str, threshold: float | None, caption: str) -> Chart | None:
    """The rows by confidence, in ranges of equal width from 0 to 1; None without rows."""
    total, most = sum(confidences), max(confidences, default=0)
    if not total:
        return None
    width = SIZE / len(confidences)
    bars = tuple(
        (
            round(index * width + 0.3, 2),
            round(SIZE * (1 - count / most), 2),
            round(width - 0.6, 2),
            round(SIZE * count / most, 2),
            f"{index / len(confidences):.2f} to {(index + 1) / len(confidences):.2f}: {counted(count, 'row')} "
            f"({share_text(count, total)})",
        )
        for index, count in enumerate(confidences)
        if count
    )
    return Chart(
        title=title,
        unit="rows",
        axis="confidence",
        ticks=("0", "0.25", "0.5", "0.75", "1"),
        top=f"{most:,}",
        bars=bars,
        mark=round(SIZE * threshold, 2) if threshold else None,
        caption=caption,
    )


def timeline_charts(timeline: Any) -> tuple[Chart, ...]:
    """The speed and the replicas over the time of a run, from the samples in its manifest; none without enough."""
    samples = _samples(timeline)
    if len(samples) < 3 or samples[-1]["s"] <= samples[0]["s"]:
        return ()
    end = samples[-1]["s"]
    uses_tokens = samples[-1]["tokens"] > 0
    name = "tokens" if uses_tokens else "rows"
    speeds = [
        (earlier["s"], later["s"], max(0.0, (later[name] - earlier[name]) / (later["s"] - earlier["s"])))
        for earlier, later in pairwise([{"s": 0.0, "rows": samples[0]["rows"], "tokens": 0.0, "replicas": 0}, *samples])
        if later["s"] > earlier["s"]
    ]
    fastest = max(speed for _, _, speed in speeds)
    ticks = ("0", duration_text(end / 2), duration_text(end))
    mean = (samples[-1][name] - (0 if uses_tokens else samples[0]["rows"])) / end
    charts = [
        _steps(
            speeds,
            fastest,
            title=f"{name.capitalize()} per second over the time of the run",
            unit=f"{name} per second",
            ticks=ticks,
            top=rate_text(fastest),
            caption=f"{rate_text(mean)} on average, {rate_text(fastest)} at most.",
        )
    ]
    replicas = [(earlier["s"], later["s"], earlier["replicas"]) for earlier, later in pairwise(samples)]
    most = max(each["replicas"] for each in samples)
    if most:
        ready = next(each["s"] for each in samples if each["replicas"])
        started = f"The first one worked after {duration_text(ready)}."
        charts.append(
            _steps(
                [(0.0, samples[0]["s"], 0.0), *replicas],
                most,
                title="Replicas over the time of the run",
                unit="replicas",
                ticks=ticks,
                top=f"{most:,.0f}",
                caption=f"{counted(int(most), 'replica')} at most. {started}",
            )
        )
    return tuple(charts)


def _steps(
    values: Sequence[tuple[float, float, float]],
    most: float,
    *,
    title: str,
    unit: str,
    ticks: tuple[str, ...],
    top: str,
    caption: str,
) -> Chart:
    """A line of steps: (from, to, value) each, up to `most`."""
    end = values[-1][1] or 1.0
    path = []
    for start, stop, value in values:
        height = SIZE * (1 - value / most) if most else SIZE
        path.append(f"{SIZE * start / end:.2f} {height:.2f} L{SIZE * stop / end:.2f} {height:.2f}")
    line = "M" + " L".join(path)
    return Chart(
        title=title,
        unit=unit,
        axis="time",
        ticks=ticks,
        top=top,
        caption=caption,
        line=line,
        area=f"{line} L{SIZE:g} {SIZE:g} L0 {SIZE:g} Z",
    )


def _samples(timeline: Any) -> list[dict[str, float]]:
    """The samples of a manifest in the order of time; none if they are damaged."""
    if not isinstance(timeline, list):
        return []
    try:
        samples = [{name: float(each[name]) for name in ("s", "rows", "tokens", "replicas")} for each in timeline]
    except (KeyError, TypeError, ValueError):
        return []
    return sorted(samples, key=lambda each: each["s"])
