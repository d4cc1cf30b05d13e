"""The progress display of a training run, and the follower of its loss log."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from tirazh.jobs.training_progress import TrainingDisplay, describe
from tirazh.model.training.log import TrainingLog, read_log
from tirazh.pipeline.finetune.progress import LogFollower, TrainingProgress


def event(step: int = 25, **changes: Any) -> TrainingProgress:
    values: dict[str, Any] = {"step": step, "total_steps": 100, "loss": 3.21049, "tokens_per_s": 12_345.6}
    values |= {"elapsed_s": 61.0, "eta_s": 183.0, "figures": {}}
    return TrainingProgress(**(values | changes))


def entry(step: int) -> dict[str, Any]:
    return {"step": step, "loss": 10.0 / step, "tokens": 100, "seconds": 0.5}


def test_a_log_line_of_a_training_run_shows_step_loss_speed_and_time() -> None:
    assert describe(event()) == "step 25 of 100 (25%) · loss 3.210 · 12,346 tokens/s · 3:03 left"
    last = event(100, figures={"perplexity": 8.123456, "macro_f1": 0.5})
    assert describe(last) == (
        "step 100 of 100 (100%) · loss 3.210 · perplexity 8.123 · macro f1 0.5 · 12,346 tokens/s · took 1:01"
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


def test_the_log_follower_reports_steps_evaluations_and_restarts(tmp_path: Path) -> None:
    path, seen, messages = tmp_path / "losses.jsonl", [], []
    follower = LogFollower(path, 10, seen.append, messages.append)
    follower.poll()
    assert seen == []
    log = TrainingLog(path, start_step=0)
    for step in (1, 2, 3):
        log.add(entry(step))
    log.add({"step": 3, "perplexity": 7.0})
    follower.poll()
    assert (seen[-1].step, seen[-1].figures, seen[-1].tokens_per_s, seen[-1].eta_s) == (
        3,
        {"perplexity": 7.0},
        200,
        3.5,
    )
    log.close()
    TrainingLog(path, start_step=2).close()
    follower.poll()
    assert messages == ["A worker died; all workers resume from step 2"]
    assert seen[-1].step == 2


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
    LogFollower(tmp_path / "l", 9, seen.append, None).poll()
    assert seen == []
