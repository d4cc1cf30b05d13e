"""Committed pictures are those that the code draws, and none has text outside its frame."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.chart import HERE, draw_chart, read_figures
from docs.pictures.draw import HEAD, NUM_POSITIONS, PICTURES, visible_keys, xl_config
from docs.pictures.svg import page, text, text_width
from tests.conftest import REPOSITORY
from tests.docs.texts import name_of
from tirazh.model.attention.block_layout import build_layout
from tirazh.pipeline.finetune.loss_plot import draw_losses

SVG = "{http://www.w3.org/2000/svg}"
FILES = sorted(
    path for folder in ("benchmarks", "docs", "model/embedded") for path in (REPOSITORY / folder).rglob("*.svg")
)
Box = tuple[float, float, float, float]


def texts_outside(svg: str) -> list[str]:
    """Return the texts of an SVG document whose estimated box leaves its viewBox."""
    root = ElementTree.fromstring(svg)
    left, top, width, height = map(float, root.attrib["viewBox"].split())
    outside = []
    for words, (x0, y0, x1, y1) in text_boxes(root):
        if x0 < left or y0 < top or x1 > left + width or y1 > top + height:
            outside.append(words)
    return outside


def text_boxes(
    node: ElementTree.Element, *, size: float = 16, transform: np.ndarray | None = None
) -> Iterator[tuple[str, Box]]:
    """Yield every text below `node` with its box, wide enough for DejaVu Sans."""
    size = float(node.get("font-size", size))
    here = (np.eye(3) if transform is None else transform) @ matrix_of(node.get("transform", ""))
    if node.tag == f"{SVG}text":
        words = node.text or ""
        length = text_width(words, size=size, bold=node.get("font-weight") == "600")
        x, y = float(node.get("x", 0)), float(node.get("y", 0))
        x -= {"start": 0.0, "middle": length / 2, "end": length}[node.get("text-anchor", "start")]
        corners = [
            (x, y - 0.8 * size),
            (x + length, y - 0.8 * size),
            (x, y + 0.25 * size),
            (x + length, y + 0.25 * size),
        ]
        placed = np.array([(here @ (cx, cy, 1))[:2] for cx, cy in corners])
        yield words, (*placed.min(0), *placed.max(0))
    for child in node:
        yield from text_boxes(child, size=size, transform=here)


def matrix_of(transform: str) -> np.ndarray:
    """Return the matrix of an SVG transform made of translate and rotate."""
    matrix = np.eye(3)
    for name, values in re.findall(r"(\w+)\(([^)]*)\)", transform):
        numbers = [float(word) for word in values.replace(",", " ").split()]
        step = np.eye(3)
        if name == "translate":
            step[:2, 2] = numbers
        else:
            assert name == "rotate", name
            angle = np.radians(numbers[0])
            step[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        matrix = matrix @ step
    return matrix


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_text_of_a_picture_is_clipped(path: Path) -> None:
    assert texts_outside(path.read_text(encoding="utf-8")) == []


def test_no_text_of_a_new_loss_plot_is_clipped() -> None:
    log = [{"step": step, "loss": 12.5 - step / 1e6, "perplexity": 98_765.4} for step in range(1, 1_000_001, 9_999)]
    assert texts_outside(draw_losses(log, title="finetune")) == []


def test_clipped_text_is_found() -> None:
    label = "labels as a trie, transformers' cache for the prefix, bfloat16"
    assert texts_outside(page(860, 100, [text(322, 54, label, anchor="end")], title="chart")) == [label]
    assert texts_outside(page(860, 100, [text(800, 54, "to the right")], title="chart")) == ["to the right"]


@pytest.mark.parametrize("name", PICTURES)
def test_a_committed_picture_is_the_one_that_is_drawn(name: str) -> None:
    assert (REPOSITORY / "docs/pictures" / name).read_text(encoding="utf-8") == PICTURES[name]()


def test_every_picture_of_the_documents_is_drawn_by_code() -> None:
    assert {path.name for path in (REPOSITORY / "docs").rglob("*.svg")} == set(PICTURES)


def test_the_attention_picture_shows_368_keys_of_the_last_query() -> None:
    config = xl_config()
    layout_MM = build_layout(config, NUM_POSITIONS)[HEAD]
    assert visible_keys(layout_MM, config.sparse_pattern.block_size) == 368
    assert "368" in [node.text for node in ElementTree.fromstring(PICTURES["attention.svg"]()).iter(f"{SVG}text")]


def test_the_committed_chart_is_drawn_from_the_committed_results() -> None:
    assert (HERE / "chart.svg").read_text(encoding="utf-8") == draw_chart(read_figures(HERE / "results.json"))


def test_the_chart_compares_dense_models_first_and_shows_narrower_dtypes_apart() -> None:
    chart = ElementTree.parse(HERE / "chart.svg")
    labels = [node.text for node in chart.iter(f"{SVG}text") if node.get("text-anchor") == "end"]
    ragged = labels[: labels.index("masked attention, one row at a time, bfloat16") + 1]
    assert ragged[0] == "tirazh, bfloat16"
    assert {"CTranslate2, float32", "CTranslate2, int8"} <= set(ragged)
    assert ragged[-2:] == ["tirazh, bfloat16", "masked attention, one row at a time, bfloat16"]


def test_the_readme_has_the_ratios_of_the_committed_results() -> None:
    figures = [f for f in read_figures(HERE / "results.json") if f.seconds]
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    for family, dtype in (("CTranslate2", "float32"), ("CTranslate2", "int8"), ("llama.cpp", "bfloat16")):
        (row,) = [line for line in readme.splitlines() if line.startswith(f"| {family}, {dtype}")]
        for workload in ("ragged", "uniform"):
            (ours,) = [f for f in figures if (f.workload, f.peer) == (workload, "tirazh dense, bfloat16")]
            (peer,) = [f for f in figures if (f.workload, f.family, f.dtype) == (workload, family, dtype)]
            assert f"| {ours.times_as_fast_as(peer):.1f} |" in row
