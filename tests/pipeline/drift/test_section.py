"""The section of the report: its numbers are those of the JSON, and untrusted text stays text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.pipeline.drift.nights import LABELS, MORE_SPORT, Night, night_table, write_night
from tirazh.pipeline.drift.label_shares import READINGS
from tirazh.pipeline.drift.run import report_output

MARKUP = "<script>alert('x')</script>"


class Tables(HTMLParser):
    """The cells of every table by its class, and the paragraphs by theirs."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.paragraphs: dict[str, list[str]] = {}
        self._table, self._paragraph = "", ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        name = dict(attrs).get("class") or ""
        if tag == "table":
            self._table = name
            self.tables.setdefault(name, [])
        elif tag == "tr" and self._table:
            self.tables[self._table].append([])
        elif tag in ("td", "th") and self._table:
            self.tables[self._table][-1].append("")
        elif tag == "p":
            self._paragraph = name or "plain"
            self.paragraphs.setdefault(self._paragraph, []).append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._table:
            self.tables[self._table][-1][-1] = self.tables[self._table][-1][-1].strip()
        self._table = "" if tag == "table" else self._table
        self._paragraph = "" if tag == "p" else self._paragraph

    def handle_data(self, data: str) -> None:
        if self._paragraph:
            self.paragraphs[self._paragraph][-1] += data
        elif self._table and data.strip() and self.tables[self._table][-1:] not in ([], [[]]):  # no caption
            self.tables[self._table][-1][-1] += data


def number(text: str) -> float:
    """The first number in a cell; percentages and percentage points are shares."""
    match = re.search(r"[+−-]?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?", text)
    assert match is not None, text
    value = float(match[0].replace(",", "").replace("−", "-"))
    return value / 100 if re.match(r"\s*(%|pp)", text[match.end() :]) else value


@pytest.fixture
def compared(tmp_path: Path) -> tuple[dict[str, Any], Tables]:
    spec = {"gold_column": "gold"}
    night = Night(rows=500, seed=1, shares=MORE_SPORT, gold_share=0.3, abstain_below=0.6, error_share=0.05)
    baselines = [
        write_night(tmp_path / f"2026-11-{20 + each}", Night(seed=each + 2, gold_share=0.3), spec=spec)
        for each in range(3)
    ]
    # Some rows are those of the last baseline, with other labels.
    again = night_table(Night(seed=4))
    labels = [LABELS[(LABELS.index(label) + 1) % 5] for label in again.column("label").to_pylist()]
    again = again.set_column(3, "label", pa.array(labels)).slice(0, 40)
    table = pa.concat_tables([night_table(night), again])
    output = write_night(tmp_path / "2026-11-23", table, spec=spec, manifest={"seconds": 61.2})
    found = report_output(output, against=baselines)
    return found.to_dict(), Tables(Path(found.page).read_text(encoding="utf-8"))


def test_the_page_shows_every_figure_of_the_json(compared: tuple[dict[str, Any], Tables]) -> None:
    values, page = compared
    rows = page.tables["drift-figures"][1:]
    assert [cells[0] for cells in rows] == [each["title"] for each in values["figures"]]
    for cells, figure in zip(rows, values["figures"], strict=True):
        for cell, name in ((cells[1], "value"), (cells[2], "baseline"), (cells[3], "difference")):
            assert (cell == "") == (figure[name] is None), (cells, name)
            if cell:
                assert number(cell) == pytest.approx(figure[name], rel=0.05, abs=0.006), (cells, name)
        if figure["difference"]:
            assert ("▲" in cells[3]) == (figure["direction"] == "up")
        if cells[4]:
            assert number(cells[4]) == pytest.approx(figure["lowest"], rel=0.05, abs=0.006)
        assert (cells[5] == "") == (figure["p_value"] is None)
        if cells[5].startswith("<"):
            assert figure["p_value"] < 0.0001
        elif cells[5]:
            assert number(cells[5]) == pytest.approx(figure["p_value"], rel=0.05)
        assert cells[6] == ("" if figure["finding"] == "not tested" else figure["meaning"])


def test_the_page_shows_every_label_of_the_json(compared: tuple[dict[str, Any], Tables]) -> None:
    values, page = compared
    labels = values["questions"][""]["labels"]
    rows = page.tables["drift-labels"][1:]
    assert [cells[0] for cells in rows] == [each["label"] or "(no label)" for each in labels["labels"]]
    for cells, label in zip(rows, labels["labels"], strict=True):
        assert number(cells[1]) == pytest.approx(label["share"], rel=0.05)
        assert f"({label['rows']:,})" in cells[1]
        assert number(cells[2]) == pytest.approx(label["baseline_share"], rel=0.05)
        assert number(cells[3]) == pytest.approx(label["difference"], rel=0.06, abs=0.001)
        assert cells[6] == label["meaning"]
    (psi,) = page.paragraphs["drift-psi"]
    assert f"{labels['corrected_psi']:.3f} ({READINGS[labels['reading']]})" in psi
    assert f"It is {labels['psi']:.3f}, of which {labels['expected_psi']:.3f} is expected" in psi


def test_the_page_shows_verdict_estimates_outputs_and_changed_rows(compared: tuple[dict[str, Any], Tables]) -> None:
    values, page = compared
    assert [text for text in page.paragraphs["plain"] if text in values["verdict"]] == values["verdict"]
    estimated = values["questions"][""]["estimated_accuracy"]
    assert f"On {estimated['gold']['rows']:,} gold rows of this output" in " ".join(page.paragraphs["drift-estimate"])
    outputs = page.tables["drift-outputs"][1:]
    described = [values["output"], *values["baselines"]]
    assert [(cells[0], number(cells[2])) for cells in outputs] == [(each["name"], each["rows"]) for each in described]
    assert [cells[1] for cells in outputs] == [each["date"] for each in described]
    (changed,) = values["changed_rows"]
    assert (changed["baseline"], changed["shared_rows"], changed["changed"]) == ("2026-11-22", 40, 40)
    assert "40 of the 40 rows that 2026-11-22 has, too, have another label (100 %)" in page.paragraphs["drift-rows"][0]
    shown = [(before, after, int(rows)) for before, after, rows in page.tables["drift-transitions"][1:]]
    assert shown == [(each["before"], each["after"], each["rows"]) for each in changed["transitions"]]


def test_confidences_are_shown_from_the_first_one_on(compared: tuple[dict[str, Any], Tables]) -> None:
    values, page = compared
    found = values["questions"][""]["confidence"]
    rows = page.tables["drift-confidences"][1:]
    first = next(
        each for each, counts in enumerate(zip(found["bins"], found["baseline_bins"], strict=True)) if any(counts)
    )
    assert [cells[0] for cells in rows] == [f"{each / 20:.2f}–{(each + 1) / 20:.2f}" for each in range(first, 20)]
    assert sum(found["bins"]) == values["output"]["rows"] - round(values["output"]["errors"] * values["output"]["rows"])
    assert number(rows[-1][1]) == pytest.approx(found["bins"][-1] / sum(found["bins"]), rel=0.05)


def test_markup_in_labels_names_texts_and_settings_is_escaped(tmp_path: Path) -> None:
    labels = [MARKUP, *LABELS[1:]]
    table = night_table(Night(rows=60, seed=1, labels=labels))
    table = table.set_column(1, "text", pa.array([f"{MARKUP} {row}" for row in range(60)]))
    last = write_night(tmp_path / "<b>last", table, spec={"labels": labels, "none_label": "<i>none"})
    other = [labels[(labels.index(label) + 1) % 5] for label in table.column("label").to_pylist()]
    spec = {"labels": [*labels[1:], "<u>new"], "template": f"{{{{ text }}}} {MARKUP}"}
    output = write_night(tmp_path / "<b>here", table.set_column(3, "label", pa.array(other)), spec=spec)
    found = report_output(output, against=[last])
    page = Path(found.page).read_text(encoding="utf-8")
    section = page[page.index('<section class="drift">') :]
    for markup in ("<script", "<b>", "<i>", "<u>"):
        assert markup not in section
    assert section.count("&lt;script&gt;") > 20


def test_no_secret_of_an_address_or_of_the_environment_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "hunter2-hunter2-hunter2"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    spec = {"model": f"https://user:{secret}@host/model", "preset": secret}
    last = write_night(tmp_path / "last", Night(rows=60), spec=spec, manifest={"model_fingerprint": "0" * 16})
    found = report_output(write_night(tmp_path / "here", Night(rows=60)), against=[last])
    assert found.to_dict()["differences"]
    assert secret not in Path(found.page).read_text(encoding="utf-8")
    assert secret not in str(found.to_dict())
