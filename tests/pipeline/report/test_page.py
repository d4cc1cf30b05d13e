"""The page of a night: it says how many, how sure and what to look at; everything is escaped, and it stays small."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from markupsafe import Markup

from tests.fuzz.random_tables import _WORDS as WORDS
from tests.fuzz.random_tokenizers import TEXTS
from tests.pipeline.report.nights import ABSTAINED, ERRORS, LABELS, ROWS, page_of_night, write_night
from tests.pipeline.report.test_content import SPEC, manifest
from tirazh.pipeline.output.seal import check_page, seal_page
from tirazh.pipeline.report.page import MOST_BYTES, Additions, render, render_unfinished

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</style><svg onload=alert(1)>",
    "\"><a href='https://example.org'>x</a>",
    "{{ 7 * 7 }} {% raw %}",
    "<!-- plan 0, sha256 0 -->",
    "a\x1b[31m\0b",
]


class Outline(HTMLParser):
    """The tags of a page: open ones, headings in order, and attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.headings: list[int] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def page(tmp_path: Path) -> str:
    return page_of_night(tmp_path)


def test_the_first_words_are_the_verdict_and_the_date(page: str) -> None:
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page.partition("<body>")[2])).replace("&nbsp;", " ")
    assert "23 November 2026, 01:30 to 01:35 UTC (5 min 2 s)" in text[:300].replace("\N{NO-BREAK SPACE}", " ")
    assert f"339 of {ROWS} rows are labelled; {ABSTAINED} abstained, {ERRORS} have errors." in text[:400]
    assert re.search(r"Accuracy on 51 gold rows: \d\d", text[:460])


def test_labels_abstentions_and_errors_add_up_to_all_rows(page: str) -> None:
    table = page.partition("<h2>Labels</h2>")[2].partition("</table>")[0]
    counts = [int(each) for each in re.findall(r'<td class="number">(\d+)</td>', table)]
    shares = [float(each) for each in re.findall(r'<td class="number">([\d.]+)\N{NO-BREAK SPACE}%</td>', table)]
    assert len(counts) == len(LABELS) + 2
    assert sum(counts) == ROWS
    assert round(sum(shares), 1) == 100.0


def test_the_least_certain_rows_have_their_text_and_their_runner_up(page: str) -> None:
    section = page.partition("<h2>Least certain rows</h2>")[2].partition("</section>")[0]
    rows = section.split("<li>")[1:]
    assert len(rows) == 20
    assert f"among all {ROWS} rows" in section
    for number, row in enumerate(rows):
        assert f"Новость {number}:" in row, "they are in the order of their confidence"
        assert "no label" in row if number < ABSTAINED else "then " in row
        assert re.search(r"part-0000\d, row \d+", row)


def test_every_label_has_three_example_rows(page: str) -> None:
    section = page.partition("Examples of each label")[2].partition("</details>")[0]
    for label in LABELS:
        assert section.partition(f"<h3>{label}</h3>")[2].partition("<h3>")[0].count("<li>") == 3


def test_errors_have_an_example_row(page: str) -> None:
    section = page.partition("<h2>Errors</h2>")[2].partition("</section>")[0]
    assert "column &#39;text&#39; is null" in section
    assert "2 rows" in section
    assert re.search(r"For example part-0000\d, row \d+", section)


def test_settings_are_folded_as_a_job_file_without_those_that_are_unset(page: str) -> None:
    text = page.partition("<summary>Settings</summary><pre>")[2].partition("</pre>")[0]
    values = yaml.safe_load(text.replace("&#39;", "'"))
    assert values["seed"] == 0
    assert "template" not in values
    assert "overwrite" not in values
    assert "null" not in text


def test_raw_keys_have_human_names(page: str) -> None:
    assert not re.search(r">\s*(prompt_tokens|tokens_per_s|num_parts|model_fingerprint|macro_f1)\s*<", page)


def test_the_page_is_small_and_loads_nothing(page: str) -> None:
    assert len(page.encode()) < 100_000
    assert not re.search(r"(?:src|href|action|srcset)\s*=|url\(|@import|<script|<link|https?://", page)


def test_headings_are_in_order_and_tags_are_closed(page: str) -> None:
    outline = Outline(page)
    assert outline.open == []
    assert outline.headings[0] == 1
    assert outline.headings.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in zip(outline.headings, outline.headings[1:], strict=False))


def test_tables_have_headers_and_diagrams_have_texts(page: str) -> None:
    outline = Outline(page)
    assert all(attributes.get("scope") in ("row", "col") for tag, attributes in outline.tags if tag == "th")
    pictures = [attributes for tag, attributes in outline.tags if tag == "svg"]
    assert len(pictures) == 3, "confidences, speed and replicas"
    assert all(each.get("role") == "img" and each.get("aria-label") for each in pictures)
    assert page.count("<svg") <= page.count("<title>") - 1


@pytest.mark.parametrize("texts", [HOSTILE, list(WORDS), list(TEXTS)], ids=["markup", "words", "texts"])
def test_texts_are_escaped(tmp_path: Path, texts: list[str]) -> None:
    page = page_of_night(tmp_path, texts=texts)
    outline = Outline(page)
    assert outline.open == []
    known = {tag for tag, _ in Outline(page_of_night(tmp_path / "plain")).tags}
    assert {tag for tag, _ in outline.tags} <= known
    assert not any(name.startswith("on") for _, attributes in outline.tags for name in attributes)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", page)
    check_page(page.encode(), "0" * 32)


def test_hostile_names_of_labels_and_settings_are_escaped() -> None:
    bad = HOSTILE[0]
    found = manifest(
        kind="classify",
        output=bad,
        labels={bad: 100},
        error_kinds={bad: 3},
        errors=3,
        spec=SPEC | {"labels": {bad: bad}, "model": bad},
        versions={bad: bad},
        parts=[{"name": bad, "rows": 200}],
        relabelled={"source": bad, "thresholds": {"": 0.5}},
    )
    page = render(found)
    assert "<script" not in page
    assert Outline(page).open == []


def test_a_page_of_long_texts_and_many_labels_stays_below_its_limit(tmp_path: Path) -> None:
    long = ["<&'\"" * 5_000] * 340
    assert len(page_of_night(tmp_path, texts=long).encode()) <= MOST_BYTES
    labels = {f"label {'<' * 200} {number}": 1 for number in range(5_000)}
    questions = {f"question {number}": {"labels": labels, "confidences": [5] * 20} for number in range(12)}
    page = render(manifest(kind="classify", questions=questions, spec=SPEC | {"questions": {}}))
    assert len(page.encode()) <= MOST_BYTES


def test_a_comparison_follows_the_verdict_as_it_is(tmp_path: Path) -> None:
    values, _ = write_night(tmp_path)
    page = render(values, comparison=Markup("<section><h2>Compared</h2></section>"))
    assert page.index("</h1>") < page.index("<h2>Compared</h2>") < page.index("<h2>Labels</h2>")


def test_reasons_and_runs_of_others_are_shown(tmp_path: Path) -> None:
    values, _ = write_night(tmp_path)
    run = {"begin": "2026-11-23T01:00:00Z", "end": "2026-11-23T01:02:00Z", "outcome": "failure", "sentence": "no space"}
    page = render(values, additions=Additions(runs=[run, {"begin": "2026-11-23T01:30:00Z"}], reasons=["less sport"]))
    assert '<p class="state look">Look here</p>' in page
    assert "<li>less sport</li>" in page
    section = page.partition("<summary>Runs</summary>")[2].partition("</details>")[0]
    assert "no space" in section
    assert section.count("<tr>") == 2


def test_an_unfinished_job_says_first_why_and_how_to_go_on() -> None:
    facts = {
        "kind": "classify",
        "output": "/news/out",
        "plan_id": "0" * 32,
        "rows": 100,
        "rows_total": 350,
        "num_parts": 5,
        "parts_total": 18,
        "errors": 1,
        "error_kinds": {"column 'text' is null": 1},
        "labels": {"sport": 60, "culture": 39},
        "reason": "1 of 100 rows have errors; correct the input <b>",
        "time": "2026-11-23T01:33:00+00:00",
        "spec": {"kind": "classify", "output": "/news/out", "labels": {"sport": "sport"}},
    }
    page = render_unfinished(facts)
    assert '<p class="state failed">Failed</p>\n<h1>This job has failed: 1 of 100 rows have errors.</h1>' in page
    assert page.index("Correct the input &lt;b&gt;") < page.index("tirazh run classify.yaml") < page.index("<main>")
    assert "100 of 350" in page
    assert Outline(page).open == []
    check_page(seal_page(page, "0" * 32).encode(), "0" * 32)
    open_page = render_unfinished({**facts, "reason": None, "spec": {"kind": "classify"}})
    assert "Not finished" in open_page
    assert "Run the same command again" in open_page
    assert "tirazh run" not in open_page
