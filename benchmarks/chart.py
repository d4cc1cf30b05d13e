"""The README's chart: one panel a workload, a bar for each family at its best dtype, ours in colour. Plain SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from benchmarks.figures import Figure

_WIDTH, _BAR, _GAP, _LABELS, _NUMBERS = 860, 18, 6, 330, 150
_OURS, _THEIRS, _INK = "#2f6f4f", "#b9bec5", "#24292f"


def draw_chart(figures: Sequence[Figure]) -> str:
    """SVG text; the widest bar of a panel is the fastest of that workload."""
    parts: list[str] = []
    top = 10
    for workload in dict.fromkeys(figure.workload for figure in figures):
        bars = _best_of_each([f for f in figures if f.workload == workload and f.seconds and f.role != "variant"])
        if bars:
            parts.append(_panel(bars, top))
            top += 34 + len(bars) * (_BAR + _GAP) + 16
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{top}" viewBox="0 0 {_WIDTH} {top}" '
        f'font-family="system-ui, sans-serif" font-size="13" fill="{_INK}">'
    )
    return "\n".join([head, f'<rect width="{_WIDTH}" height="{top}" fill="white"/>', *parts, "</svg>", ""])


def _best_of_each(figures: Sequence[Figure]) -> list[Figure]:
    best: dict[tuple[str, str], Figure] = {}
    for figure in figures:
        key = figure.family, figure.layers
        if key not in best or figure.whole_time < best[key].whole_time:
            best[key] = figure
    return sorted(best.values(), key=lambda figure: figure.whole_time)


def _panel(bars: Sequence[Figure], top: int) -> str:
    lines = [f'<text x="10" y="{top + 18}" font-weight="600">{bars[0].workload}, {bars[0].unit}</text>']
    room = _WIDTH - _LABELS - _NUMBERS
    for number, bar in enumerate(bars):
        y = top + 30 + number * (_BAR + _GAP)
        width = max(1.0, room * bar.times_as_fast_as(bars[0]))
        color = _OURS if bar.is_ours else _THEIRS
        rate = f"{bar.rate:,.0f}" if bar.rate >= 100 else f"{bar.rate:.3g}"
        lines += [
            f'<text x="{_LABELS - 8}" y="{y + 14}" text-anchor="end">{escape(bar.peer)}</text>',
            f'<rect x="{_LABELS}" y="{y}" width="{width:.1f}" height="{_BAR}" rx="2" fill="{color}"/>',
            f'<text x="{_LABELS + width + 6:.1f}" y="{y + 14}">{rate}</text>',
        ]
    return "\n".join(lines)
