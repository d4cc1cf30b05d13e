"""What the commands print about submitted jobs, as text and as JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tirazh.jobs.cluster.facts import job_facts, show_jobs, show_status, show_stopped, show_submitted
from tirazh.jobs.cluster.submit import Submission


def test_quiet_submit_prints_only_the_job_id(capsys: pytest.CaptureFixture[str]) -> None:
    submission = Submission(job_id="tirazh-a-123456", was_running=False)
    show_submitted(submission, "http://user:secret@head:8265", as_json=False, quiet=True)
    show_submitted(submission, "http://user:secret@head:8265", as_json=False, quiet=False)
    out = capsys.readouterr().out
    assert out.splitlines()[:2] == ["tirazh-a-123456", "submitted tirazh-a-123456"]
    assert "--address http://head:8265" in out
    assert "secret" not in out


def test_submitting_a_running_job_says_so_and_names_settings_that_it_does_not_take(
    capsys: pytest.CaptureFixture[str],
) -> None:
    submission = Submission(job_id="tirazh-a-123456", was_running=True, other_settings=("replicas", "slots"))
    show_submitted(submission, None, as_json=False, quiet=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "tirazh-a-123456 is already running, so it was not submitted again"
    assert lines[1] == "  it keeps its own replicas, slots; stop it first to change them"
    show_submitted(submission, None, as_json=True, quiet=False)
    assert json.loads(capsys.readouterr().out) == {"job": "tirazh-a-123456", "was_running": True}


INFO: dict[str, Any] = {
    **{"id": "tirazh-a-123456", "status": "FAILED", "message": "Job failed, last logs:\nTraceback\n  File x"},
    **{"start_time": 1_795_000_000.0, "end_time": 1_795_000_006.0, "driver_exit_code": 1},
    "metadata": {"tirazh_job": '{"output": "s3://night/out"}'},
}


LOG = (
    'first\ntirazh-progress {"time": "2026-11-18T11:06:44Z", "rows": 133, "rows_safe": 120, "rows_total": 728, '
    '"parts": 12, "parts_total": 76, "errors": 1, "eta_s": 30.5, "tokens_per_s": 99.1, "replicas": 2}\nlast\n'
)


def test_the_status_of_a_job_has_times_in_utc_rows_and_one_line_of_its_log(capsys: pytest.CaptureFixture[str]) -> None:
    show_status(job_facts(INFO, LOG), as_json=False, quiet=False)
    show_status(job_facts(INFO, ""), as_json=False, quiet=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:10] == [
        "job        tirazh-a-123456",
        "state      failed",
        "started    2026-11-18T11:06:40Z",
        "took       0:06",
        "rows       133 of 728 answered, 120 safe",
        "parts      12 of 76 written",
        "errors     1",
        "exit code  1",
        "output     s3://night/out",
        "last line  last",
    ]
    assert lines[-1] == "message    Job failed, last logs:"


def test_the_status_for_programs_has_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    show_status(job_facts(INFO | {"status": "RUNNING", "driver_exit_code": None}, LOG), as_json=True, quiet=False)
    found = json.loads(capsys.readouterr().out)
    assert (found["state"], found["rows"], found["rows_safe"], found["rows_total"]) == ("running", 133, 120, 728)
    assert (found["eta_s"], found["tokens_per_s"], found["exit_code"]) == (30.5, 99.1, None)
    assert (found["begin"], found["end"]) == ("2026-11-18T11:06:40Z", "2026-11-18T11:06:46Z")
    ended = job_facts(INFO | {"status": "SUCCEEDED", "driver_exit_code": 0}, LOG)
    assert (ended["eta_s"], ended["exit_code"], ended["output"]) == (None, 0, "s3://night/out")


def test_all_jobs_are_lines_of_a_table_or_a_list(capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [job_facts(INFO, LOG), job_facts(INFO | {"id": "tirazh-b-123456", "end_time": 0, "status": "RUNNING"}, "")]
    show_jobs(jobs, as_json=False, quiet=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["job", "state", "started", "took", "rows", "output"]
    assert lines[1].split() == [
        *("tirazh-a-123456", "failed", "2026-11-18T11:06:40Z", "0:06", "133/728", "s3://night/out"),
    ]
    assert lines[2].split()[:2] == ["tirazh-b-123456", "running"]
    show_jobs(jobs, as_json=True, quiet=False)
    assert [job["rows"] for job in json.loads(capsys.readouterr().out)] == [133, None]
    show_jobs([], as_json=False, quiet=False)
    assert capsys.readouterr().out == "no job of tirazh is on this cluster\n"


def test_stopping_a_job_says_which_rows_are_safe(capsys: pytest.CaptureFixture[str]) -> None:
    show_stopped(INFO | {"status": "STOPPED"}, LOG, was_running=True, as_json=False, quiet=False)
    assert capsys.readouterr().out.splitlines() == [
        "tirazh-a-123456 stopped: 133 rows answered, 120 safe in 12 of 76 parts",
        "  `tirazh resume tirazh-a-123456` makes the rest",
    ]


@pytest.mark.parametrize(
    ("status", "end"), [("FAILED", "failed"), ("SUCCEEDED", "succeeded"), ("STOPPED", "was stopped")]
)
def test_stopping_a_job_that_has_ended_prints_one_sentence(
    status: str, end: str, capsys: pytest.CaptureFixture[str]
) -> None:
    show_stopped(INFO | {"status": status}, LOG, was_running=False, as_json=False, quiet=False)
    assert capsys.readouterr().out == (
        f"tirazh-a-123456 has ended already, so there is nothing to stop: it {end} after 0:06\n"
    )


def test_a_job_that_had_nothing_left_to_do_has_its_rows(capsys: pytest.CaptureFixture[str]) -> None:
    log = 'tirazh-progress {"rows": 6, "rows_safe": 6, "rows_total": 6}\n'
    show_status(job_facts(INFO | {"status": "SUCCEEDED"}, log), as_json=False, quiet=False)
    assert "rows       6 of 6 answered, 6 safe\n" in capsys.readouterr().out


TRAINING = INFO | {"metadata": {"tirazh_job": '{"kind": "finetune", "output": "/shared/model"}'}}
TRAINING_LOG = (
    'tirazh-progress {"steps": 13, "steps_saved": 10, "steps_total": 60, "loss": 0.5014, "evaluation": '
    '{"perplexity": 1.468, "macro_f1": 0.68}, "eta_s": 61.0, "tokens_per_s": 264.0}\n'
)


def test_the_status_of_a_training_has_its_steps_its_loss_and_its_last_evaluation(
    capsys: pytest.CaptureFixture[str],
) -> None:
    facts = job_facts(TRAINING | {"status": "RUNNING", "driver_exit_code": None}, TRAINING_LOG)
    assert (facts["steps"], facts["steps_saved"], facts["steps_total"], facts["rows_total"]) == (13, 10, 60, None)
    assert (facts["eta_s"], facts["evaluation"]["perplexity"]) == (61.0, 1.468)
    show_status(facts, as_json=False, quiet=False)
    assert capsys.readouterr().out.splitlines()[4:10] == [
        "steps       13 of 60, checkpoint of step 10",
        "loss        0.501",
        "perplexity  1.468",
        "macro f1    0.68",
        "left        1:01",
        "output      /shared/model",
    ]
    show_jobs([facts], as_json=False, quiet=False)
    assert "13/60 steps" in capsys.readouterr().out


def test_stopping_a_training_says_which_step_is_saved(capsys: pytest.CaptureFixture[str]) -> None:
    stopped = TRAINING | {"status": "STOPPED"}
    show_stopped(stopped, TRAINING_LOG, was_running=True, as_json=False, quiet=False)
    show_stopped(stopped, "", was_running=True, as_json=False, quiet=False)
    assert capsys.readouterr().out.splitlines() == [
        "tirazh-a-123456 stopped at step 13 of 60: the checkpoint of step 10 is saved",
        "  `tirazh resume tirazh-a-123456` goes on from it",
        "tirazh-a-123456 stopped before the first step",
        "  `tirazh resume tirazh-a-123456` starts it again",
    ]
