"""The report in a real browser: it fits on a desktop, on a phone of 390 pixels, in the dark and on paper.

The screenshots are in the folder that `TIRAZH_SCREENSHOTS` names, to be looked at; they are not compared.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from markupsafe import Markup

from tests.chromium import BROWSER, Page, opened
from tests.pipeline.report.nights import LABELS, ROWS, write_night
from tests.pipeline.report.test_content import manifest, sample
from tests.pipeline.report.test_evaluation_section import evaluation
from tests.pipeline.report.test_page import HOSTILE
from tirazh.pipeline.output.report import pages_of
from tirazh.pipeline.report.evaluation_section import rows_id
from tirazh.pipeline.report.page import render, render_unfinished

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="needs Chromium (apt-get install chromium)"),
]
# Contrast of every text with what is behind it (WCAG 2), and the smallest font: [ratio, pixels, text].
MEASURE = """(() => {
  const parts = color => (color.match(/[\\d.]+/g) || []).map(Number);
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const over = layers => {
    canvas.clearRect(0, 0, 1, 1);
    for (const color of layers) { canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1) }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = rgb => {
    const [r, g, b] = rgb.map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, parent = node.parentElement;
    if (!node.data.trim() || parent.closest('title') || !parent.checkVisibility()) continue;
    const layers = [];
    for (let each = parent; each; each = each.parentElement) layers.unshift(getComputedStyle(each).backgroundColor);
    const style = getComputedStyle(parent), back = over(layers);
    const [a, b] = [luminance(over([...layers, style.color])), luminance(back)].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), parseFloat(style.fontSize), node.data.trim().slice(0, 40)]);
  }
  const page = luminance(over([getComputedStyle(document.documentElement).backgroundColor,
                               getComputedStyle(document.body).backgroundColor]));
  return {texts: found, page};
})()"""
WIDER_THAN_THE_PAGE = """[...document.querySelectorAll('body *')].filter(each => {
  const box = each.closest('.wide, pre');
  return each.checkVisibility() && !(box && box !== each) && each.getBoundingClientRect().right > innerWidth + 0.5;
}).map(each => each.outerHTML.slice(0, 80))"""


def screenshots(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("TIRAZH_SCREENSHOTS", tmp_path / "screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def page_of(kind: str, folder: Path) -> str:
    if kind == "failed":
        reason = (
            "1 of 100 rows have errors, more than --max-error-rate 0.001 allows for the 350 rows; correct the input"
        )
        facts = {
            **{"kind": "classify", "output": "/news/labelled/2026-11-23", "plan_id": "0" * 32, "reason": reason},
            **{"rows": 100, "rows_total": 350, "num_parts": 5, "parts_total": 18, "errors": 1},
            **{"error_kinds": {"column 'text' is null": 1}, "labels": {"sport": 60, "culture": 39}},
            **{
                "time": "2026-11-23T01:33:00+00:00",
                "spec": {"output": "/news/out", "labels": dict.fromkeys(LABELS, "")},
            },
        }
        return render_unfinished(facts)
    if kind == "generate":
        texts: list[str | None] = [f"{'длинноеслово' * 12} {index}" for index in range(60)]
        more = {"drop_reasons": {"language": 3, "max_repeated_ngrams": 1}, "kept": 196, "unified_columns": ["x " * 90]}
        step = {"name": "generate", "kind": "generate", "rows": 200, "errors": 0, "seconds": 7.0}
        return render(manifest(**more, steps=[step]), sample=sample(texts))
    values, output = write_night(folder, texts=[*HOSTILE, "слово" * 200])
    if kind == "evaluated":
        values["spec"] = {**values["spec"], "output": "s3://bucket/" + "long" * 60}
        values["output"] = values["spec"]["output"]
        return render(values, evaluations=[evaluation(20, rows_id=rows_id(values))])
    return pages_of(values, output)["report.html"].decode()


@pytest.fixture(params=["night", "evaluated", "generate", "failed"])
def shown(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Page]]:
    """One page in a browser."""
    path = tmp_path / "report.html"
    path.write_text(page_of(request.param, tmp_path), encoding="utf-8")
    with opened(path.as_uri(), tmp_path) as page:
        yield request.param, page


def measured(page: Page) -> dict[str, Any]:
    found: dict[str, Any] = page.value(MEASURE)
    assert len(found["texts"]) > 20
    return found


def test_it_fits_every_screen_and_can_be_read_on_it(shown: tuple[str, Page], tmp_path: Path) -> None:
    kind, page = shown
    folder = screenshots(tmp_path)
    for name, width, scheme in (("desktop", 1280, "light"), ("phone", 390, "light"), ("dark", 1280, "dark")):
        page.show(width, scheme=scheme)  # type: ignore[arg-type]
        page.value("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert page.value("innerWidth") == width
        assert page.value("document.documentElement.scrollWidth") <= width, name
        assert page.value(WIDER_THAN_THE_PAGE) == [], name
        found = measured(page)
        assert [each for each in found["texts"] if each[0] < 4.5] == [], name
        assert [each for each in found["texts"] if each[1] < 14] == [], name
        assert found["page"] < 0.2 if scheme == "dark" else found["page"] > 0.8
        page.value("document.querySelectorAll('details').forEach(each => each.open = false)")
        picture = page.screenshot(folder / f"{kind}-{name}.png")
        assert picture.stat().st_size > 10_000


def test_it_is_printed_on_two_pages(shown: tuple[str, Page], tmp_path: Path) -> None:
    kind, page = shown
    data = page.printed(screenshots(tmp_path) / f"{kind}.pdf").read_bytes()
    pages = len(re.findall(rb"/Type\s*/Page\b", data))
    assert 1 <= pages <= (3 if kind == "evaluated" else 2)


def test_nothing_is_requested_and_no_script_runs(shown: tuple[str, Page]) -> None:
    _, page = shown
    page.show(1280)
    assert len(page.requests) == 1, page.requests
    assert page.requests[0].startswith("file:")
    assert page.value("document.scripts.length") == 0
    assert page.value("document.querySelectorAll('img, link, iframe, object, a[href]').length") == 0


def test_a_keyboard_reaches_what_scrolls_and_what_is_folded(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    values, output = write_night(tmp_path)
    path.write_text(pages_of(values, output)["report.html"].decode(), encoding="utf-8")
    with opened(path.as_uri(), tmp_path) as page:
        page.show(390)
        assert page.value("[...document.querySelectorAll('.wide')].every(each => each.tabIndex === 0)")
        wide = "[...document.querySelectorAll('.wide')].filter(each => each.scrollWidth > each.clientWidth).length"
        assert page.value(wide) >= 1, "the confusion matrix scrolls in its own box"
        assert page.value("document.querySelectorAll('details:not([open]) > summary').length") >= 4


def test_the_shares_on_the_screen_add_up(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    values, output = write_night(tmp_path)
    path.write_text(pages_of(values, output)["report.html"].decode(), encoding="utf-8")
    with opened(path.as_uri(), tmp_path) as page:
        cells = page.value(
            "[...document.querySelector('.bars').querySelectorAll('td.number')].map(each => each.innerText)"
        )
    assert sum(int(each) for each in cells[::2]) == ROWS
    assert round(sum(float(each.split()[0]) for each in cells[1::2]), 1) == 100


def test_a_section_of_another_package_takes_part_in_the_look(tmp_path: Path) -> None:
    table = "<table><tr><th>label</th><td>12</td></tr></table>"
    section = Markup(f'<section><h2>Compared</h2><div class="wide">{table}</div></section>')
    values, _ = write_night(tmp_path)
    path = tmp_path / "report.html"
    path.write_text(render(values, comparison=section), encoding="utf-8")
    with opened(path.as_uri(), tmp_path) as page:
        page.show(390, scheme="dark")
        assert page.value("document.documentElement.scrollWidth") <= 390
        assert [each for each in measured(page)["texts"] if each[0] < 4.5] == []
