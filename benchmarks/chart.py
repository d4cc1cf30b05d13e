"""The README's chart: a panel for each workload, a bar for each engine at its fastest dtype, ours in colour.

Engines are compared on the same dense model first. Bars of the model with sparse layers stand below them, apart,
because that is another architecture. `python -m benchmarks.chart` redraws `chart.svg` from `results.json`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from benchmarks.figures import Figure
from benchmarks.model_under_test import WIDTHS
from benchmarks.workloads import DESCRIPTIONS
from docs.pictures.svg import page, rect, text, text_width

HERE = Path(__file__).resolve().parent
_WIDTH, _BAR, _ROW, _MARGIN, _GAP = 860, 18, 24, 24, 10
_TITLES = {
    "ragged": "Generation, mixed lengths (ragged)",
    "uniform": "Generation, equal lengths (uniform)",
    "labels": "Classification behind a shared prefix (labels)",
    "long": "Generation behind long prompts (long)",
    "small": "Generation of few rows (small)",
    "small-32": "Generation of few rows (small-32)",
    "samples": "Several samples of a prompt (samples)",
    "prefixes": "Prompts that share prefixes (prefixes)",
}
_SHORT_NAMES = {
    "tirazh": "tirazh",
    "transformers.generate": "transformers generate, static batches",
    "transformers continuous batching": "transformers continuous batching",
    "vLLM": "vLLM, CPU engine",
    "masked, one at a time": "masked attention, one row at a time",
    "labels as a trie, transformers' cache for the prefix": "label trie, cached prefix",
    "transformers with its prefix cache": "label by label, cached prefix",
    "labels as a trie, prefix recomputed": "label trie, prefix recomputed",
    "a forward per label": "one forward per label",
}


def main() -> None:
    """Redraw the committed chart from the committed results."""
    (HERE / "chart.svg").write_text(draw_chart(read_figures(HERE / "results.json")), encoding="utf-8")


def read_figures(path: Path) -> list[Figure]:
    """Read the figures of a `results.json`; derived values in it are computed anew."""
    names = [field.name for field in fields(Figure)]
    entries = json.loads(path.read_text(encoding="utf-8"))["figures"]
    return [Figure(**{name: entry[name] for name in names}) for entry in entries]


def draw_chart(figures: Sequence[Figure]) -> str:
    """Return the chart as SVG text. The longest bar of a panel is the fastest engine of that workload."""
    panels: list[list[Figure]] = []
    for workload in dict.fromkeys(figure.workload for figure in figures):
        ran = [f for f in figures if f.workload == workload and f.seconds and f.role != "variant"]
        if ran:
            panels.append(_best_of_each(ran))
    labels = max((text_width(_label(bar)) for panel in panels for bar in panel), default=0)
    shapes: list[str] = []
    top = 12.0
    for panel in panels:
        top = _add_panel(shapes, panel, top=top, bars_at=_MARGIN + labels + _GAP)
    return page(_WIDTH, round(top) + 4, shapes, title="tirazh and other engines on the benchmark's workloads")


def _best_of_each(figures: Sequence[Figure]) -> list[Figure]:
    """The fastest figure of every engine and architecture; int8, or a dtype narrower than ours, is a bar of its own."""
    wider = [WIDTHS[figure.dtype] for figure in figures if figure.is_ours and figure.dtype != "int8"]
    narrowest = min(wider, default=0)
    best: dict[tuple[str, str, bool], Figure] = {}
    for figure in figures:
        key = figure.family, figure.layers, WIDTHS[figure.dtype] < narrowest
        if key not in best or figure.whole_time < best[key].whole_time:
            best[key] = figure
    return sorted(best.values(), key=lambda figure: (figure.layers != "dense", figure.whole_time))


def _add_panel(shapes: list[str], bars: Sequence[Figure], *, top: float, bars_at: float) -> float:
    """Append a panel's shapes; returns where the next panel begins."""
    first = bars[0]
    title = _TITLES.get(first.workload, first.workload)
    about = f"{first.num_rows_whole} rows: {DESCRIPTIONS[first.workload]}; {first.unit}, higher is better"
    shapes += [
        text(_MARGIN, top + 22, title, bold=True, size=14),
        text(_MARGIN, top + 42, about, colour="muted", size=12),
    ]
    y = top + 52
    fastest = min(bars, key=lambda figure: figure.whole_time)
    space = _WIDTH - _MARGIN - bars_at - max(text_width(_rate(bar)) for bar in bars) - _GAP
    for number, bar in enumerate(bars):
        if bar.layers != "dense" and (number == 0 or bars[number - 1].layers == "dense"):
            shapes.append(text(bars_at, y + 15, "with every second layer sparse:", colour="muted", size=12))
            y += _ROW - 2
        width = max(1.0, space * bar.times_as_fast_as(fastest))
        shapes += [
            text(bars_at - _GAP, y + 14, _label(bar), anchor="end"),
            rect(bars_at, y, width, _BAR, "local" if bar.is_ours else "peer", radius=2),
            text(bars_at + width + 6, y + 14, _rate(bar)),
        ]
        y += _ROW
    return y + 14


def _label(bar: Figure) -> str:
    return f"{_SHORT_NAMES.get(bar.family, bar.family)}, {bar.dtype}"


def _rate(bar: Figure) -> str:
    return f"{bar.rate:,.0f}" if bar.rate >= 100 else f"{bar.rate:.3g}"


if __name__ == "__main__":
    main()
