"""`tirazh finetune` in this process, with ranks of a test in place of Ray's workers: where trainings begin and end."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.distributed import RankPool, run_distributed
from tests.model.training.cases import train
from tests.system.conftest import read_demo
from tests.system.tiny_model import write_tiny_model
from tirazh.jobs.cli import main
from tirazh.jobs.finetune import with_command
from tirazh.model.training.config import TrainingConfig
from tirazh.model.training.log import read_log
from tirazh.model.training.loop import Training
from tirazh.pipeline.finetune import run
from tirazh.pipeline.finetune.summary import stopped

Command = Callable[..., int]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and the demo's news."""
    folder = tmp_path_factory.mktemp("finetune")
    write_tiny_model(folder / "model")
    pq.write_table(read_demo("news.jsonl").select(["text"]), folder / "news.parquet")
    return folder


@pytest.fixture(scope="module")
def alone() -> Iterator[RankPool]:
    with run_distributed(1) as pool:
        yield pool


@pytest.fixture
def finetune(alone: RankPool, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """`finetune(output, **flags)` runs the command and returns its exit code."""
    flags: dict[str, object] = {"input": folder / "news.parquet", "model": folder / "model", "dtype": "float32"}
    flags |= {"seq_length": 32, "batch_size": 2, "micro_batch_size": 2, "learning_rate": 2e-3, "device": "cpu"}
    flags |= {"lr_schedule": "constant", "threads": 1, "limit": 12, "warmup_steps": 0}
    monkeypatch.setattr(run, "ray_cluster", lambda *given, **named: nullcontext())
    monkeypatch.setattr(run, "refuse_too_many", lambda *given: None)
    monkeypatch.setattr(run, "choose_device", lambda device, workers: "cpu")
    use(monkeypatch, alone, train)

    def make(output: Path, *switches: str, **more: object) -> int:
        named = {"output": output} | flags | more
        words = [text for name, value in named.items() for text in (f"--{name.replace('_', '-')}", str(value))]
        return finish(monkeypatch, ["finetune", *words, *switches])

    return make


def use(monkeypatch: pytest.MonkeyPatch, pool: RankPool, function: Callable[[TrainingConfig], object]) -> None:
    """Let the rank run this function in place of Ray's group of workers."""

    def run_group(config: TrainingConfig, group: object) -> None:
        pool.run(function, config)

    monkeypatch.setattr(run, "run_group", run_group)


def finish(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> int:
    monkeypatch.setattr("sys.argv", ["tirazh", *words])
    return main(words)


def train_to_nan_at_7(config: TrainingConfig) -> None:
    """Train; the loss of step 7 is not a number."""
    training = Training(config)
    step = training._step

    def patched(number: int) -> dict[str, Any]:
        return step(number) | ({"loss": float("nan")} if number == 6 else {})

    training._step = patched  # type: ignore[method-assign]
    training.run()


def train_two_steps(config: TrainingConfig) -> None:
    """Train two steps and stop, as a training that is interrupted does."""
    training = Training(config)
    step = training._step

    def patched(number: int) -> dict[str, Any]:
        if number == 1:
            Path(config.stop_request).parent.mkdir(parents=True, exist_ok=True)
            Path(config.stop_request).touch()
        return step(number)

    training._step = patched  # type: ignore[method-assign]
    training.run()


def losses(output: Path) -> list[float]:
    return [entry["loss"] for entry in read_log(output / "_tirazh/losses.jsonl") if "loss" in entry]


def manifest(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / "_tirazh/manifest.json").read_text())
    return found


def test_sixty_steps_and_thirty_more_are_ninety_to_the_last_byte(
    finetune: Command, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Six and three here, over more than one epoch. The kept checkpoint is that of a complete training."""
    first, longer, straight = (tmp_path / name for name in ("first", "longer", "straight"))
    assert finetune(first, "--keep-last-checkpoint", max_steps=6, eval_input=folder / "news.parquet", eval_limit=2) == 0
    shown = capsys.readouterr()
    assert "Before -> after (step 0 -> 6): perplexity " in shown.err
    assert "perplexity_before" in shown.out
    assert finetune(longer, max_steps=9, **{"from": first}) == 0
    assert "step 6; its first step is 7, in the same order of the data" in capsys.readouterr().err
    assert finetune(straight, max_steps=9) == 0
    assert losses(longer) == losses(straight)[6:]
    assert (longer / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()
    assert [path.name[:13] for path in (first / "_tirazh/checkpoints").iterdir()] == ["step-00000006"]
    assert not (first / "_tirazh/trainings").exists()
    made = manifest(first)
    assert (made["evaluation_before"]["step"], made["evaluation"]["step"], made["loss_steps"]) == (0, 6, 3)
    (line,) = (first / "_tirazh/runs.jsonl").read_text().splitlines()
    assert json.loads(line)["outcome"] == "success"


def test_rows_of_evaluations_that_are_skipped_or_cut_are_in_manifest_and_card(
    finetune: Command, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["матч"] * 6 + ["матч " * 20] * 2 + [None]
    topics = ["sport"] * 5 + ["abroad"] + ["sport"] * 3
    pq.write_table(pa.table({"text": texts, "topic": topics}), tmp_path / "labelled.parquet")
    more = {"labels": "sport,economics", "label_input": tmp_path / "labelled.parquet", "label_column": "topic"}
    assert finetune(tmp_path / "out", max_steps=1, max_error_rate=0.5, **more) == 0
    counts = manifest(tmp_path / "out")["evaluation_rows"]["label_input"]
    assert {name: each["rows"] for name, each in counts["skipped_reasons"].items()} == {"unknown label": 1, "null": 1}
    assert (counts["rows"], counts["skipped"], counts["cut_texts"]) == (9, 2, 2)
    card = (tmp_path / "out/README.md").read_text()
    assert "9 rows, 2 skipped (unknown label 1, null 1), 2 texts are too long" in card
    assert "--label-input: Rows that cannot be used are skipped: 2: unknown label 1, null 1" in capsys.readouterr().err


def test_inputs_with_weights_are_mixed_also_after_an_interruption(
    finetune: Command, folder: Path, tmp_path: Path, alone: RankPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shorter input has three of four sequences; a training that was interrupted ends with the same bytes."""
    for name, word, rows in (("long", "a", 30), ("short", "b", 5)):
        pq.write_table(pa.table({"text": [word * 20] * rows}), tmp_path / f"{name}.parquet")
    job = {"kind": "finetune", "input": [str(tmp_path / "long.parquet"), str(tmp_path / "short.parquet")]}
    job |= {"input_weights": [1, 3], "packing": "single", "model": str(folder / "model"), "max_steps": 6}
    (tmp_path / "train.json").write_text(json.dumps(job))
    named = {"seq_length": 32, "batch_size": 4, "dtype": "float32", "device": "cpu", "threads": 1}
    flags = [text for name, value in named.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    words = ["finetune", "--config", str(tmp_path / "train.json"), *flags, "--output"]
    assert finish(monkeypatch, [*words, str(tmp_path / "straight")]) == 0
    sources = manifest(tmp_path / "straight")["sources"]
    assert [(each["rows"], each["sequences"], each["weight"]) for each in sources] == [(30, 30, 1.0), (5, 5, 3.0)]
    assert "weight 3, 5 rows" in (tmp_path / "straight/README.md").read_text()
    use(monkeypatch, alone, train_two_steps)
    assert finish(monkeypatch, [*words, str(tmp_path / "resumed")]) == 1
    use(monkeypatch, alone, train)
    assert finish(monkeypatch, [*words, str(tmp_path / "resumed")]) == 0
    model = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("straight", "resumed")]
    assert model[0] == model[1]


def test_weights_need_one_number_for_each_input_and_files_of_their_own(
    finetune: Command, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune(tmp_path / "out", "--input-weights", "1", "2", "--dry-run") == 2
    assert "needs one number for each --input, 1 in all, not 2" in capsys.readouterr().err
    assert finetune(tmp_path / "out", "--input-weights", "1", "--dry-run") == 2
    assert "leave it out with --input-weights" in capsys.readouterr().err  # --limit
    words = ["finetune", "--input", str(folder), str(folder / "news.parquet"), "--input-weights", "1", "2"]
    assert main([*words, "--model", str(folder / "model"), "--output", str(tmp_path / "out"), "--dry-run"]) == 2
    assert "is in two inputs; each file may have one weight only" in capsys.readouterr().err


def test_the_printed_command_goes_on_from_the_last_good_checkpoint(
    finetune: Command,
    alone: RankPool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The loss of step 7 is not a number, and a checkpoint is written every five steps."""
    output = tmp_path / "out"
    use(monkeypatch, alone, train_to_nan_at_7)
    assert finetune(output, max_steps=10, save_steps=5) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "training stopped: the loss is nan at step 7; to go on from step 5" in said
    (plot,) = output.glob("_tirazh/trainings/*/losses.svg")
    assert "polyline" in plot.read_text()
    use(monkeypatch, alone, train)
    words = shlex.split(said.partition(", run: tirazh ")[2])
    assert words[-4:] == ["--from", f"{output}@5", "--learning-rate", "0.0002"]
    assert finish(monkeypatch, words) == 0
    assert len(losses(output)) == 5
    assert manifest(output)["start"]["step"] == 5
    assert not (output / "_tirazh/trainings").exists()
    assert finish(monkeypatch, words) == 0, "it is complete, and not repeated"


def test_the_model_is_that_of_the_best_evaluation(
    finetune: Command, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twelve short texts are learned by heart; the held-out loss is lowest on the way."""
    output = tmp_path / "out"
    more = {"eval_input": folder / "news.parquet", "eval_limit": 8, "limit": 2, "max_steps": 30, "learning_rate": 2e-2}
    assert finetune(output, keep="best", patience=2, eval_steps=1, **more) == 0
    log, made = read_log(output / "_tirazh/losses.jsonl"), manifest(output)
    found = {entry["step"]: entry["perplexity"] for entry in log if "perplexity" in entry and entry["step"]}
    assert made["model_step"] == min(found, key=lambda step: found[step])
    assert made["evaluation"]["perplexity"] == min(found.values())
    assert made["last_step"] == made["model_step"] + 2
    assert "The training ended at step" in capsys.readouterr().err


def test_the_command_keeps_every_flag_but_those_that_change() -> None:
    error = stopped("the loss is nan at step 7", output="out dir", good=5, learning_rate=1e-3)
    words = ["tirazh", "finetune", "--learning-rate=1e-3", "--input", "a b", "--from", "x", "--overwrite", "-q"]
    assert str(with_command(error, words)).endswith(
        "run: tirazh finetune --input 'a b' -q --from 'out dir@5' --learning-rate 0.0001"
    )
    assert with_command(error, ["pytest"]) is error
