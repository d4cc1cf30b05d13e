"""The printed results of the commands, as text and as JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tirazh.jobs import console
from tirazh.pipeline.execution.metrics import ProgressEvent
from tirazh.pipeline.output.verify import Verification

MANIFEST: dict[str, Any] = {
    **{"kind": "classify", "output": "/out", "rows": 1000, "errors": 2, "error_kinds": {"empty text": 2}},
    **{"prompt_tokens": 90_000, "completion_tokens": 0, "seconds": 50.0, "tokens_per_s": 1800.0, "abstained": 98},
    **{"labels": {"sport": 600, "world": 300}, "accuracy": 0.75, "macro_f1": 0.7, "gold_rows": 998},
    "parts": [{"name": "part-00000-of-00001.parquet"}],
}
LAST = ProgressEvent(
    **{"rows_done": 1000, "rows_total": 1000, "rows_resumed": 0, "parts_done": 1, "parts_total": 1, "error_rows": 2},
    **{"prompt_tokens": 90_000, "completion_tokens": 0, "replicas": 1, "elapsed_s": 50.0},  # type: ignore[arg-type]
)


def test_the_summary_shows_rows_labels_accuracy_tokens_and_speed(capsys: pytest.CaptureFixture[str]) -> None:
    console.show_manifest(MANIFEST, LAST, as_json=False, quiet=False)
    assert capsys.readouterr().out.splitlines() == [
        "rows      1,000, 2 with an error: empty text (2)",
        "labels    sport 60%, world 30%, (abstained) 10%",
        "accuracy  0.750 of 998 rows (macro-F1 0.700)",
        "tokens    90,000 prompt, 0 completion",
        "speed     20.0 rows/s, 1,800 tokens/s, 0:50",
        "output    /out",
        "report    /out/_tirazh/report.html",
    ]


def test_the_summary_shows_the_labels_and_the_accuracy_of_each_question(capsys: pytest.CaptureFixture[str]) -> None:
    topic = {name: MANIFEST[name] for name in ("labels", "abstained", "accuracy", "macro_f1", "gold_rows")}
    rows = {"labels": {"good": 998}, "abstained": 0}
    plain = {name: value for name, value in MANIFEST.items() if name not in topic}
    console.show_manifest(plain | {"questions": {"topic": topic, "rows": rows}}, LAST, as_json=False, quiet=False)
    lines = capsys.readouterr().out.splitlines()
    assert [" ".join(line.split()) for line in lines[:4]] == [
        "rows 1,000, 2 with an error: empty text (2)",
        "topic labels sport 60%, world 30%, (abstained) 10%",
        "topic accuracy 0.750 of 998 rows (macro-F1 0.700)",
        "rows labels good 100%",
    ]


def test_the_summary_of_a_complete_job_says_that_nothing_was_left_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    console.show_manifest(MANIFEST | {"errors": 0}, None, as_json=False, quiet=False)
    out = capsys.readouterr().out
    assert "1,000 (all from an earlier run; nothing was left to do)" in out
    assert "speed" not in out


def test_the_json_of_a_manifest_omits_the_parts(capsys: pytest.CaptureFixture[str]) -> None:
    console.show_manifest(MANIFEST, LAST, as_json=True, quiet=True)
    assert json.loads(capsys.readouterr().out) == {name: value for name, value in MANIFEST.items() if name != "parts"}


def test_quiet_prints_no_summary(capsys: pytest.CaptureFixture[str]) -> None:
    console.show_manifest(MANIFEST, LAST, as_json=False, quiet=True)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("problems", "code"), [((), 0), (("part-00001 is damaged",), 1)])
def test_verify_prints_the_problems_and_a_verdict(
    problems: tuple[str, ...], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    found = Verification(output="out", parts=2, parts_expected=2, rows=9, rows_expected=9, problems=problems)
    assert console.show_verification(found, as_json=False, quiet=False) == code
    lines = capsys.readouterr().out.splitlines()
    assert lines[:-1] == list(problems)
    assert lines[-1] == ("FAILED" if code else "OK") + ": 9/9 rows, 2/2 parts verified in out"


def test_prints_of_libraries_go_to_stderr_when_json_is_requested(capsys: pytest.CaptureFixture[str]) -> None:
    with console.only_json(True):
        print("AutoTP: ...")
    print("{}")
    assert capsys.readouterr() == ("{}\n", "AutoTP: ...\n")
