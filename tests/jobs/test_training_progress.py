"""The progress display of a training run, and the follower of its loss log."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RayActorError

from tirazh.actors.training_failures import FailureLog
from tirazh.jobs.training_progress import TrainingDisplay, describe
from tirazh.model.training.log import TrainingLog, read_log
from tirazh.pipeline.finetune.progress import Followed, LogFollower, TrainingProgress


def event(step: int = 25, **changes: Any) -> TrainingProgress:
    values: dict[str, Any] = {"step": step, "total_steps": 100, "loss": 3.21049, "tokens_per_s": 12_345.6}
    values |= {"elapsed_s": 61.0, "eta_s": 183.0, "figures": {}}
    return TrainingProgress(**(values | changes))


def entry(step: int) -> dict[str, Any]:
    return {"step": step, "loss": 10.0 / step, "tokens": 100, "seconds": 0.5}


def test_a_log_line_of_a_training_run_shows_step_loss_speed_and_time() -> None:
    assert describe(event()) == "step 25 of 100 (25%) · loss 3.210 · 12,346 tokens/s · 3:03 left"
    last = event(100, loss_steps=20, figures={"perplexity": 8.123456, "macro_f1": 0.5}, figures_step=90)
    assert describe(last) == (
        "step 100 of 100 (100%) · loss 3.210 (mean of 20) · perplexity 8.123 · macro f1 0.5 (step 90) · "
        "12,346 tokens/s · took 1:01"
    )


def test_the_log_of_a_training_run_gets_a_line_every_ten_seconds_and_a_last_one() -> None:
    now, stream = [0.0], io.StringIO()
    with TrainingDisplay(stream=stream, clock=lambda: now[0]) as display:
        for step in range(1, 101):
            now[0] += 0.3
            display.show(event(step))
    lines = stream.getvalue().splitlines()
    assert 4 <= len(lines) <= 5
    assert lines[-1].partition(" ")[2].startswith("step 100 of 100")


def test_a_quiet_training_display_prints_nothing() -> None:
    stream = io.StringIO()
    with TrainingDisplay("quiet", stream=stream) as display:
        display.say("Training")
        display.show(event())
    assert stream.getvalue() == ""


def test_an_interrupted_training_run_reports_its_step() -> None:
    display = TrainingDisplay("quiet")
    assert display.interrupted().startswith("interrupted before the first step")
    display.show(event())
    assert display.interrupted().startswith("interrupted at step 25 of 100; run the same command to resume")


class Training:
    """The files of a training in which tests write what workers and Ray Train write."""

    def __init__(self, folder: Path, *, eval_steps: int = 0) -> None:
        self.followed = Followed(
            log=folder / "losses.jsonl", failures=folder / "failures.jsonl", total_steps=10, eval_steps=eval_steps
        )
        self.seen: list[TrainingProgress] = []
        self.told: list[str] = []

    def follow(self) -> LogFollower:
        return LogFollower(self.followed, self.seen.append, self.told.append)

    def start_group(self, step: int) -> TrainingLog:
        return TrainingLog(self.followed.log, start_step=step)

    def fail(self, errors: dict[int, BaseException]) -> None:
        FailureLog(str(self.followed.failures), None).after_exception(None, errors)


def test_the_log_follower_reports_steps_and_evaluations(tmp_path: Path) -> None:
    training = Training(tmp_path)
    follower = training.follow()
    follower.poll()
    assert training.seen == []
    log = training.start_group(0)
    for step in (1, 2, 3):
        log.add(entry(step))
    follower.poll()
    log.add({"step": 3, "perplexity": 7.0, "seconds": 2.0})
    follower.poll()
    last = training.seen[-1]
    assert (last.step, last.figures, last.figures_step, last.tokens_per_s) == (3, {"perplexity": 7.0}, 3, 200)
    assert last.loss_steps == 3
    assert [entry["step"] for event in training.seen for entry in event.entries] == [1, 2, 3, 3]
    assert training.told == []


@pytest.mark.parametrize(("eval_steps", "left"), [(0, 1), (3, 3), (4, 2), (5, 1), (9, 2), (10, 1)])
def test_the_time_left_includes_the_evaluations_that_remain(eval_steps: int, left: int, tmp_path: Path) -> None:
    """At step 5 of 10 with an evaluation of 8 seconds behind it."""
    training = Training(tmp_path, eval_steps=eval_steps)
    follower, log = training.follow(), training.start_group(0)
    last = max((step for step in range(1, 6) if eval_steps and step % eval_steps == 0), default=0)
    for step in range(6):
        if step:
            log.add(entry(step))
        if step == last:
            log.add({"step": step, "perplexity": 7.0, "seconds": 8.0})
    follower.poll()
    assert training.seen[-1].eta_s == 5 * 0.5 + left * 8.0


def test_a_resumed_training_says_where_it_goes_on_and_not_that_a_worker_died(tmp_path: Path) -> None:
    """The log of the earlier run reaches beyond the checkpoint."""
    training = Training(tmp_path)
    log = training.start_group(0)
    for step in (1, 2, 3, 4):
        log.add(entry(step))
    log.close()
    training.fail({0: dead_worker()})  # in the earlier run
    follower = training.follow()
    follower.poll()
    assert training.seen == []
    log = training.start_group(3)
    log.add(entry(4))
    follower.poll()
    assert training.told == ["Going on from step 3 of 10"]


def test_a_worker_that_died_is_told_once_with_its_rank(tmp_path: Path) -> None:
    training = Training(tmp_path)
    follower, log = training.follow(), training.start_group(0)
    for step in (1, 2, 3):
        log.add(entry(step))
    follower.poll()
    training.fail({0: RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:3000"), 1: dead_worker()})
    training.start_group(2).close()
    follower.poll()
    follower.poll()
    assert training.told == [
        "Training worker 1 died (its process ended: killed, out of memory, or crashed); all workers are started again "
        "and go on from step 2 of 10"
    ]
    assert training.seen[-1].step == 2


def test_a_worker_that_raised_an_error_is_not_said_to_have_died(tmp_path: Path) -> None:
    training = Training(tmp_path)
    follower = training.follow()
    training.start_group(0).close()
    follower.poll()
    training.fail({0: OSError(28, "No space left on device")})
    training.start_group(0).close()
    follower.poll()
    assert training.told == [
        "Training worker 0 failed: OSError: [Errno 28] No space left on device; all workers are started again and go "
        "on from step 0 of 10"
    ]


def dead_worker() -> RayActorError:
    return RayActorError(
        "0" * 32, "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR"
    )


def test_log_lines_after_the_resumed_checkpoint_are_removed(tmp_path: Path) -> None:
    path = tmp_path / "losses.jsonl"
    log = TrainingLog(path, start_step=0)
    for step in (1, 2, 3, 4):
        log.add(entry(step))
    log.add({"step": 4, "stopped": "nan"})
    log.close()
    path.write_text(path.read_text() + '{"step": 5, "lo')  # killed while it wrote
    assert [each["step"] for each in read_log(path)] == [1, 2, 3, 4, 4]
    TrainingLog(path, start_step=2).close()
    assert read_log(path) == [entry(1), entry(2)]


def test_a_non_finite_loss_is_logged_as_null(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path / "l", start_step=0)
    log.add({"step": 1, "loss": float("inf"), "grad_norm": float("nan")})
    log.close()
    assert read_log(tmp_path / "l") == [{"step": 1, "loss": None, "grad_norm": None}]
    seen: list[TrainingProgress] = []
    followed = Followed(log=tmp_path / "l", failures=tmp_path / "f", total_steps=9)
    LogFollower(followed, seen.append, None).poll()
    assert seen == []
