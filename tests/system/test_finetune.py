"""`tirazh finetune` as users run it: the same loss curve for any number of workers, killed or not, and a model that the
other commands can use.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from benchmarks.process_tree import tree_of
from tests.system.command import assert_one_sentence, end, read_rows, run_tirazh, wait_until
from tests.system.conftest import read_demo
from tirazh.model.training.checkpoint import find_checkpoints
from tirazh.model.training.log import read_log

STEPS = 240
SAVE_STEPS = 30
TIMEOUT_S = 1_500.0  # the machine may be busy
Command = Callable[..., list[object]]
pytestmark = pytest.mark.timeout(5_400)  # several training runs in a test, each of which starts Ray


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's 60 news: text and gold label."""
    news = read_demo("news.jsonl")
    path = tmp_path_factory.mktemp("news") / "news.parquet"
    pq.write_table(news.select(["text", "label"]), path)
    return path


@pytest.fixture(scope="module")
def command(source: Path, tiny_model: str) -> Command:
    """`command(output, **more)` returns the arguments of the command line."""
    flags: dict[str, object] = {"input": source, "model": tiny_model, "dtype": "float32", "device": "cpu", "seed": 5}
    flags |= {"seq-length": 192, "batch-size": 6, "micro-batch-size": 2, "learning-rate": 2e-3, "threads": 1}
    flags |= {"max-steps": STEPS, "save-steps": SAVE_STEPS}

    def make(output: object, **more: object) -> list[object]:
        named = {**flags, "output": output} | {name.replace("_", "-"): value for name, value in more.items()}
        return ["finetune", *(text for name, value in named.items() for text in (f"--{name}", value))]

    return make


@pytest.fixture(scope="module")
def undisturbed(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run with one worker and no interruption."""
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    done = run_tirazh(*command(output), timeout_s=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    return output


def losses(output: Path) -> list[float]:
    """The losses of a completed training, or of the one that runs."""
    logs = [output / "_tirazh/losses.jsonl", *output.glob("_tirazh/trainings/*/losses.jsonl")]
    return [entry["loss"] for entry in read_log(logs[-1]) if "loss" in entry]


def find_newest(output: Path) -> int:
    """The step of the newest checkpoint of the only training in the output."""
    (folder,) = output.glob("_tirazh/trainings/*")
    training = json.loads((folder / "finetune.json").read_text())["training"]
    return find_checkpoints(folder / "checkpoints", training)[-1].step


def wait_for_step(output: Path, step: int) -> None:
    wait_until(lambda: len(losses(output)) >= step, timeout_s=TIMEOUT_S, what=f"step {step}")


def side_by_side(title: str, *curves: list[float]) -> None:
    """Print the losses of several runs; `pytest -rP` shows them."""
    print(title)
    for step in (1, *range(SAVE_STEPS, STEPS + 1, SAVE_STEPS)):
        print(f"{step:6}", *(f"{curve[step - 1]:.7f}" for curve in curves))


def training_workers(driver: int) -> list[int]:
    """Process ids of the training workers below the driver."""
    found = []
    for pid in tree_of(driver):
        try:
            name = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if b"RayTrainWorker" in name:
            found.append(pid)
    return found


@pytest.mark.slow
def test_a_killed_worker_does_not_change_the_loss_curve(
    command: Command, start: Callable[..., subprocess.Popen[str]], undisturbed: Path, tmp_path: Path
) -> None:
    """After kill -9 of one of two workers the group resumes from its last checkpoint with the same data."""
    whole, output = tmp_path / "whole", tmp_path / "killed"
    assert run_tirazh(*command(whole, workers=2, zero_stage=1), timeout_s=TIMEOUT_S).returncode == 0
    process = start(*command(output, workers=2, zero_stage=1))
    wait_for_step(output, SAVE_STEPS * 2 + 5)
    workers = training_workers(process.pid)
    assert len(workers) == 2
    os.kill(workers[-1], signal.SIGKILL)
    _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, err
    assert err.count("died") == 1, err
    assert re.search(r"Training worker \d on \S+ died \(.*\); all workers are started again and go on from step", err)
    assert json.loads((output / "_tirazh/manifest.json").read_text())["worker_deaths"] == 1
    side_by_side("one worker, two, two with one killed", losses(undisturbed), losses(whole), losses(output))
    assert losses(output) == losses(whole)
    assert losses(output) == pytest.approx(losses(undisturbed), abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_the_same_command_resumes_a_run_whose_driver_was_stopped(
    number: signal.Signals,
    command: Command,
    start: Callable[..., subprocess.Popen[str]],
    undisturbed: Path,
    tmp_path: Path,
) -> None:
    output = tmp_path / "out"
    process = start(*command(output))
    wait_for_step(output, SAVE_STEPS + 10)
    _, err = end(process, number=number)
    if number != signal.SIGKILL:
        assert process.returncode == 128 + number
        assert "run the same command to resume from the last checkpoint" in err
        assert find_newest(output) == len(losses(output)), "a step was lost"
        assert list(output.glob("_tirazh/trainings/*/losses.svg")), "the curves of an interrupted run"
    newest = find_newest(output)
    assert not (output / "config.json").exists()
    done = run_tirazh(*command(output), timeout_s=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    (resumed_at,) = re.findall(rf"Going on from step (\d+) of {STEPS}", done.stderr)
    if number == signal.SIGKILL:  # a worker that has not noticed yet may have finished another checkpoint
        assert int(resumed_at) >= newest
    else:
        assert int(resumed_at) == newest
    assert "died" not in done.stderr
    side_by_side(f"undisturbed, driver ended by {number.name}", losses(undisturbed), losses(output))
    assert losses(output) == losses(undisturbed)
    assert (output / "model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()
    assert not (output / "_tirazh/trainings").exists()


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_two_workers_give_the_loss_curve_of_one(
    stage: int, command: Command, undisturbed: Path, tmp_path: Path
) -> None:
    done = run_tirazh(*command(tmp_path / "out", workers=2, zero_stage=stage), timeout_s=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    side_by_side(f"one worker, two with ZeRO {stage}", losses(undisturbed), losses(tmp_path / "out"))
    assert losses(tmp_path / "out") == pytest.approx(losses(undisturbed), abs=0.02)


@pytest.mark.slow
def test_classify_reaches_the_accuracy_that_training_reported(command: Command, source: Path, tmp_path: Path) -> None:
    """The accuracy in the training log equals that of `classify` with the exported model, which knows its labels."""
    labels = "economics,sport,science,world,culture"
    more: dict[str, Any] = {"completion_column": "label", "labels": labels, "label_input": source}
    more |= {"packing": "single", "label_column": "label", "max_steps": 120}
    trained = run_tirazh(*command(tmp_path / "out", **more), "--json", timeout_s=TIMEOUT_S)
    assert trained.returncode == 0, trained.stderr
    reported = json.loads(trained.stdout)["accuracy"]
    assert reported > 0.5
    texts = pq.read_table(source).rename_columns(["text", "gold"])
    pq.write_table(texts, tmp_path / "texts.parquet")
    done = run_tirazh(
        *("classify", "--input", tmp_path / "texts.parquet", "--output", tmp_path / "labelled"),
        *("--model", tmp_path / "out", "--dtype", "float32", "--threads", 1, "--seq-length", 192),
        timeout_s=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    rows = read_rows(tmp_path / "labelled")
    assert sum(row["label"] == row["gold"] for row in rows) / len(rows) == pytest.approx(reported, abs=0.02)


@pytest.mark.slow
def test_a_completed_run_is_not_repeated_and_another_request_is_refused(command: Command, undisturbed: Path) -> None:
    before = (undisturbed / "model.safetensors").stat().st_mtime_ns
    again = run_tirazh(*command(undisturbed, workers=2), timeout_s=TIMEOUT_S)
    assert again.returncode == 0
    assert (undisturbed / "model.safetensors").stat().st_mtime_ns == before
    assert_one_sentence(run_tirazh(*command(undisturbed, seed=6)), exit_code=2, says="--seed differs")


@pytest.mark.slow
def test_the_old_model_stays_readable_until_another_training_replaces_it(
    command: Command, start: Callable[..., subprocess.Popen[str]], undisturbed: Path, tmp_path: Path
) -> None:
    """`--overwrite`: a request that fails, and one that is killed, remove nothing of the last model."""
    output = tmp_path / "out"
    shutil.copytree(undisturbed, output)
    before = model_files(output)
    refused = run_tirazh(*command(output, seed=6, dtype="float16"), "--overwrite", timeout_s=TIMEOUT_S)
    assert refused.returncode == 2
    assert model_files(output) == before
    process = start(*command(output, seed=6), "--overwrite")
    wait_until(
        lambda: any(output.glob("_tirazh/trainings/*/checkpoints/step-*")), timeout_s=TIMEOUT_S, what="a checkpoint"
    )
    end(process)
    assert model_files(output) == before
    assert run_tirazh(*command(output), timeout_s=TIMEOUT_S).returncode == 0, "the old request is still complete"
    done = run_tirazh(*command(output, seed=6), "--overwrite", timeout_s=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    assert model_files(output) != before
    assert not (output / "_tirazh/trainings").exists()


@pytest.mark.slow
def test_a_training_whose_driver_was_stopped_does_not_change_the_one_that_took_over(
    command: Command, start: Callable[..., subprocess.Popen[str]], undisturbed: Path, tmp_path: Path
) -> None:
    """The first driver is stopped for longer than its lease while its workers continue; then it is continued."""
    output = tmp_path / "out"
    longer: dict[str, Any] = {"max_steps": STEPS * 20, "lease_s": 4}
    first = start(*command(output, **longer, seed=6))
    wait_for_step(output, SAVE_STEPS + 5)
    first.send_signal(signal.SIGSTOP)
    time.sleep(longer["lease_s"] + 1)  # a run that has renewed its lease in time is alive, and the second is refused
    try:
        second = start(*command(output, lease_s=4), "--overwrite")
        trainings = output / "_tirazh/trainings"
        wait_until(lambda: len(list(trainings.glob("*/checkpoints"))) == 2, timeout_s=TIMEOUT_S, what="a checkpoint")
    finally:
        first.send_signal(signal.SIGCONT)
    _, said = first.communicate(timeout=TIMEOUT_S)
    assert first.returncode == 1
    assert "no longer holds" in said
    _, err = second.communicate(timeout=TIMEOUT_S)
    assert second.returncode == 0, err
    assert losses(output) == losses(undisturbed)
    assert model_files(output) == model_files(undisturbed)


@pytest.mark.slow
def test_a_training_from_a_checkpoint_equals_one_that_was_longer_from_the_beginning(
    command: Command, tmp_path: Path
) -> None:
    """60 steps and then 30 at a constant rate are 90 steps, to the last byte of the model."""
    constant: dict[str, Any] = {"lr_schedule": "constant", "warmup_steps": 0}
    first = run_tirazh(
        *command(tmp_path / "first", **constant, max_steps=60), "--keep-last-checkpoint", timeout_s=TIMEOUT_S
    )
    assert first.returncode == 0, first.stderr
    from_first: dict[str, Any] = {"from": tmp_path / "first"}
    for name, more in (("straight", {}), ("longer", from_first)):
        done = run_tirazh(*command(tmp_path / name, **constant, **more, max_steps=90), timeout_s=TIMEOUT_S)
        assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "longer") == losses(tmp_path / "straight")[60:]
    assert model_files(tmp_path / "longer") == model_files(tmp_path / "straight")


def model_files(output: Path) -> dict[str, bytes]:
    """The files of a model; its card names the output and the seconds that it took."""
    return {path.name: path.read_bytes() for path in output.iterdir() if path.is_file() and path.name != "README.md"}
