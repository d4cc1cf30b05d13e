"""The printed results of the commands, as text and as JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tirazh.jobs import console
from tirazh.jobs.cluster.submit import Submission
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


def test_quiet_submit_prints_only_the_job_id(capsys: pytest.CaptureFixture[str]) -> None:
    submission = Submission(job_id="tirazh-a-123456", was_running=False)
    console.show_submitted(submission, "http://user:secret@head:8265", as_json=False, quiet=True)
    console.show_submitted(submission, "http://user:secret@head:8265", as_json=False, quiet=False)
    out = capsys.readouterr().out
    assert out.splitlines()[:2] == ["tirazh-a-123456", "submitted tirazh-a-123456"]
    assert "--address http://head:8265" in out
    assert "secret" not in out


def test_submitting_a_running_job_says_so_and_names_settings_that_it_does_not_take(
    capsys: pytest.CaptureFixture[str],
) -> None:
    submission = Submission(job_id="tirazh-a-123456", was_running=True, other_settings=("replicas", "slots"))
    console.show_submitted(submission, None, as_json=False, quiet=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "tirazh-a-123456 is already running, so it was not submitted again"
    assert lines[1] == "  it keeps its own replicas, slots; stop it first to change them"
    console.show_submitted(submission, None, as_json=True, quiet=False)
    assert json.loads(capsys.readouterr().out) == {"job": "tirazh-a-123456", "was_running": True}


INFO: dict[str, Any] = {
    **{"id": "tirazh-a-123456", "status": "FAILED", "message": "Job failed, last logs:\nTraceback\n  File x"},
    **{"start_time": 1_795_000_000.0, "end_time": 1_795_000_006.0, "driver_exit_code": 1, "metadata": {}},
}


def test_the_status_of_a_job_has_times_in_utc_and_one_line_of_its_log(capsys: pytest.CaptureFixture[str]) -> None:
    console.show_status(INFO, "first\n\nlast\n", as_json=False, quiet=False)
    console.show_status(INFO, "", as_json=False, quiet=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        "job        tirazh-a-123456",
        "status     failed",
        "started    2026-11-18 11:06:40Z",
        "took       0:06",
        "exit code  1",
    ]
    assert lines[5] == "last line  last"
    assert lines[-1] == "message    Job failed, last logs:"


@pytest.mark.parametrize(
    ("status", "end"), [("FAILED", "failed"), ("SUCCEEDED", "succeeded"), ("STOPPED", "was stopped")]
)
def test_stopping_a_job_that_has_ended_prints_one_sentence(
    status: str, end: str, capsys: pytest.CaptureFixture[str]
) -> None:
    console.show_stopped(INFO | {"status": status}, was_running=False, as_json=False, quiet=False)
    assert capsys.readouterr().out == (
        f"tirazh-a-123456 has ended already, so there is nothing to stop: it {end} after 0:06\n"
    )


def test_prints_of_libraries_go_to_stderr_when_json_is_requested(capsys: pytest.CaptureFixture[str]) -> None:
    with console.only_json(True):
        print("AutoTP: ...")
    print("{}")
    assert capsys.readouterr() == ("{}\n", "AutoTP: ...\n")
