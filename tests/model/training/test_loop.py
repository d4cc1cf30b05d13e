"""A training run gives the same loss curve with any number of workers and any ZeRO stage, interrupted or not."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import numpy as np
import pytest
import torch

from tests.distributed import RankPool, run_distributed
from tests.model.tiny import build_engine, run
from tests.model.training.cases import SMALL, train, training_config, write_packed
from tirazh.errors import CheckpointError, JobError
from tirazh.model.checkpoints.directory import open_checkpoint
from tirazh.model.load import load_pretrained
from tirazh.model.requests import EngineJob, ScoreRequest
from tirazh.model.tokenizer import load_tokenizer
from tirazh.model.training.batch import TrainedModel, read_microbatch
from tirazh.model.training.batch_order import BatchOrder
from tirazh.model.training.checkpoint import find_checkpoints
from tirazh.model.training.config import ROLE_PROMPT, LoraSettings, OptimizerConfig, TrainingConfig
from tirazh.model.training.export import export_model
from tirazh.model.training.label_file import LabelFile
from tirazh.model.training.log import read_log
from tirazh.model.training.selection import figures
from tirazh.model.training.sequence_store import SequenceStore, StoreWriter

T = TypeVar("T")


@pytest.fixture(scope="module")
def alone() -> Iterator[RankPool]:
    with run_distributed(1) as pool:
        yield pool


@pytest.fixture(scope="module")
def pair() -> Iterator[RankPool]:
    with run_distributed(2) as pool:
        yield pool


@pytest.fixture
def config(tmp_path: Path) -> TrainingConfig:
    return training_config(tmp_path)


@pytest.fixture(scope="module")
def curve(alone: RankPool, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Return the losses of one worker without ZeRO."""
    (log,) = alone.run(train, training_config(tmp_path_factory.mktemp("curve")))
    return losses(log)


def losses(log: list[dict[str, Any]]) -> list[float]:
    return [entry["loss"] for entry in log if "loss" in entry]


def test_training_lowers_the_loss(curve: list[float]) -> None:
    assert len(curve) == 6
    assert curve[-1] < curve[0] - 0.3


@pytest.mark.parametrize("stage", [0, *(pytest.param(each, marks=pytest.mark.slow) for each in (1, 2)), 3])
def test_two_workers_give_the_loss_curve_of_one(
    stage: int, config: TrainingConfig, pair: RankPool, curve: list[float]
) -> None:
    """A batch of five sequences: one worker runs two of them, the other three."""
    log, _ = pair.run(train, replace(config, zero_stage=stage))
    assert losses(log) == pytest.approx(curve, abs=1e-5)


@pytest.mark.parametrize("stage", [0, 3])
def test_packed_sequences_give_the_loss_of_their_texts(
    stage: int, config: TrainingConfig, alone: RankPool, pair: RankPool, tmp_path: Path
) -> None:
    """A step of all 24 sequences is one of all their 96 texts, each of which sees itself alone."""
    config = replace(config, total_steps=2, micro_batch_size=5, optimizer=OptimizerConfig(learning_rate=3e-3))
    found = []
    for packed, pool in ((False, alone), (True, alone), (True, pair)):
        name = f"{packed}-{pool is pair}"
        data = write_packed(tmp_path / f"data-{name}", packed=packed)
        own = replace(config, train_data=data, eval_data=data, zero_stage=stage, batch_size=24 if packed else 96)
        own = replace(own, checkpoints=str(tmp_path / name), log=str(tmp_path / f"{name}.jsonl"))
        log = pool.run(train, own)[0]
        found.append([*losses(log), math.log(log[-1]["perplexity"])])
        assert len({entry["tokens"] for entry in log if "tokens" in entry}) == 1
    assert found[1] == pytest.approx(found[0], abs=1e-5)
    assert found[2] == pytest.approx(found[0], abs=1e-5)


@pytest.mark.parametrize(("stage", "dtype"), [(0, "float32"), (1, "bfloat16"), (2, "float32"), (3, "bfloat16")])
def test_a_resumed_run_repeats_the_steps_after_its_checkpoint_bit_for_bit(
    stage: int, dtype: str, config: TrainingConfig, alone: RankPool
) -> None:
    config = replace(config, zero_stage=stage, dtype=dtype)
    (whole,) = alone.run(train, config)
    keep_first_checkpoint(config)
    (log,) = alone.run(train, config)
    assert [entry["step"] for entry in log] == [1, 2, 3, 4, 5, 6]
    assert losses(log) == losses(whole)


@pytest.mark.parametrize(("stage", "dtype"), [(0, "float32"), (1, "bfloat16"), (3, "float32")])
def test_one_worker_resumes_a_run_of_two_at_another_zero_stage(
    stage: int, dtype: str, config: TrainingConfig, alone: RankPool, pair: RankPool
) -> None:
    config = replace(config, zero_stage=stage, dtype=dtype)
    whole = losses(pair.run(train, config)[0])
    keep_first_checkpoint(config)
    (log,) = alone.run(train, replace(config, zero_stage=2))
    assert losses(log) == pytest.approx(whole, abs=1e-5 if dtype == "float32" else 0.02)


def keep_first_checkpoint(config: TrainingConfig) -> None:
    """Remove the later checkpoints, as if the workers had been killed after the first."""
    for checkpoint in find_checkpoints(Path(config.checkpoints), config.training)[1:]:
        shutil.rmtree(checkpoint.folder)


def test_a_training_checkpoint_of_another_model_is_refused(
    config: TrainingConfig, alone: RankPool, tmp_path: Path
) -> None:
    alone.run(train, config)
    other = training_config(tmp_path / "other", config=replace(SMALL, hidden_size=64), checkpoints=config.checkpoints)
    with pytest.raises(CheckpointError, match="is damaged or of another model; remove"):
        alone.run(train, other)


def test_checkpoints_of_another_training_are_not_resumed_from(
    config: TrainingConfig, alone: RankPool, curve: list[float]
) -> None:
    """They are of the same model, and of the last step."""
    alone.run(train, replace(config, training="1" * 32, seed=4))
    (log,) = alone.run(train, config)
    assert losses(log) == curve
    assert [each.step for each in find_checkpoints(Path(config.checkpoints), "1" * 32)] == [3, 6]


@dataclass(frozen=True)
class LogFence:
    """A fence that is lost once the log has so many entries."""

    log: str
    entries: int

    def guard(self, action: Callable[[], T], *, undo: Callable[[], None] | None = None) -> T:
        if len(read_log(Path(self.log))) >= self.entries:
            raise JobError("another run has taken over")
        return action()


@pytest.mark.parametrize(("entries", "steps", "saved"), [(0, 0, []), (2, 2, []), (3, 3, []), (4, 4, [3])])
def test_a_fenced_worker_ends_before_its_next_write(
    entries: int, steps: int, saved: list[int], config: TrainingConfig, alone: RankPool
) -> None:
    with pytest.raises(JobError, match="another run has taken over"):
        alone.run(train, replace(config, fence=LogFence(config.log, entries)))
    assert len(read_log(Path(config.log))) == steps
    assert [each.step for each in find_checkpoints(Path(config.checkpoints), config.training)] == saved


def test_a_non_finite_loss_ends_the_run_with_a_reason_in_the_log(config: TrainingConfig, alone: RankPool) -> None:
    wild = replace(config, optimizer=OptimizerConfig(learning_rate=1e30, max_grad_norm=0.0))
    (log,) = alone.run(train, wild)
    assert log[-1]["stopped"].startswith("the loss is")
    assert not [each for each in find_checkpoints(Path(config.checkpoints), config.training) if each.step == 6]


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_run_that_is_asked_to_stop_loses_no_step(
    workers: int, config: TrainingConfig, alone: RankPool, pair: RankPool, tmp_path: Path
) -> None:
    pool = alone if workers == 1 else pair
    config = replace(config, total_steps=150, save_steps=1000)
    whole = pool.run(train, replace(config, checkpoints=str(tmp_path / "whole"), log=str(tmp_path / "whole.jsonl")))[0]
    asking = Thread(target=ask_to_stop, args=(config, 3))
    asking.start()
    done = losses(pool.run(train, config)[0])
    asking.join()
    assert 3 <= len(done) < 150
    assert [each.step for each in find_checkpoints(Path(config.checkpoints), config.training)] == [len(done)]
    Path(config.stop_request).unlink()
    assert losses(pool.run(train, config)[0]) == losses(whole)


def ask_to_stop(config: TrainingConfig, step: int) -> None:
    while len(read_log(Path(config.log))) < step:
        time.sleep(0.001)
    Path(config.stop_request).touch()


def test_a_run_that_is_asked_to_stop_before_its_first_step_does_nothing(
    config: TrainingConfig, alone: RankPool
) -> None:
    Path(config.stop_request).touch()
    assert alone.run(train, config) == [[]]
    assert not find_checkpoints(Path(config.checkpoints), config.training)


def test_only_the_newest_checkpoints_are_kept(config: TrainingConfig, alone: RankPool) -> None:
    alone.run(train, replace(config, save_steps=1, keep_checkpoints=2))
    assert [each.step for each in find_checkpoints(Path(config.checkpoints), config.training)] == [5, 6]


@pytest.mark.parametrize("stage", [0, 3])
def test_evaluation_is_the_same_for_any_number_of_workers(
    stage: int, config: TrainingConfig, alone: RankPool, pair: RankPool, tmp_path: Path
) -> None:
    config = replace(
        config, zero_stage=stage, eval_data=config.train_data, label_data=write_labels(tmp_path / "labels")
    )
    found = []
    for pool, name in ((alone, "one"), (pair, "two")):
        own = replace(config, checkpoints=str(tmp_path / name), log=str(tmp_path / f"{name}.jsonl"), eval_steps=3)
        found.append([entry for entry in pool.run(train, own)[0] if "perplexity" in entry])
    assert [entry["step"] for entry in found[0]] == [0, 3, 6]
    for one, two in zip(*found, strict=True):
        assert figures(two) == pytest.approx(figures(one), abs=1e-3)


def test_label_accuracy_uses_the_label_that_the_engine_scores_highest(
    config: TrainingConfig, alone: RankPool, tmp_path: Path
) -> None:
    """With the engine's most likely labels as gold labels, the accuracy of an untrained step is 1."""
    folder = write_labels(tmp_path / "labels")
    labels, store = LabelFile.read(Path(folder)), SequenceStore(folder)
    model = load_pretrained(config.model)
    engine = build_engine(model, job=EngineJob(labels=labels.token_ids))
    prompts = [tuple(store.sequence(index)[0].tolist()) for index in range(len(store))]
    results = run(engine, [ScoreRequest(prompt_token_ids=prompt) for prompt in prompts])
    gold = tuple(max(range(3), key=result.logprobs.__getitem__) for result in results)
    replace(labels, gold=gold).write(Path(folder))
    frozen = OptimizerConfig(learning_rate=1e-12)
    (log,) = alone.run(train, replace(config, label_data=folder, total_steps=1, optimizer=frozen))
    assert log[-1]["accuracy"] == 1.0


def write_labels(folder: Path) -> str:
    """Write eight prompts and three labels of one to three tokens with a common prefix."""
    rng = np.random.default_rng(1)
    with StoreWriter(folder) as writer:
        sequences = []
        for length in range(3, 11):
            start = sum(writer.lengths)
            writer.add(rng.integers(0, 250, length).tolist(), [ROLE_PROMPT] * length)
            sequences.append([(start, start + length)])
        writer.finish(sequences)
    tokens = ((5,), (6, 7), (6, 7, 8))
    LabelFile(names=("a", "b", "c"), token_ids=tokens, gold=(0, 1, 2, 0, 1, 2, 0, 1)).write(folder)
    return str(folder)


def exported(config: TrainingConfig, folder: Path, dtype: str | None = None) -> Any:
    """Export the last checkpoint and load the exported model."""
    folder.mkdir()
    last = find_checkpoints(Path(config.checkpoints), config.training)[-1]
    export_model(folder, open_checkpoint(config.model), last, lora=config.lora, dtype=dtype)
    return load_pretrained(str(folder))


def test_the_last_checkpoint_is_exported_with_the_tokenizer(
    config: TrainingConfig, alone: RankPool, tmp_path: Path
) -> None:
    alone.run(train, config)
    model = exported(config, tmp_path / "out")
    checkpoint = find_checkpoints(Path(config.checkpoints), config.training)[-1]
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, checkpoint.weight_rows(name, 0, parameter.shape[0])), name
    assert load_tokenizer(str(tmp_path / "out")).size == load_tokenizer(config.model).size
    half = exported(config, tmp_path / "half", "float16")
    assert torch.allclose(next(half.parameters()), next(model.parameters()), atol=1e-2)
    assert open_checkpoint(str(tmp_path / "half")).dtype("model.norm.weight") == "float16"


@pytest.mark.parametrize("stage", [0, 3])
def test_lora_lowers_the_loss_and_is_merged_into_the_exported_model(
    stage: int, config: TrainingConfig, alone: RankPool, pair: RankPool, tmp_path: Path
) -> None:
    pytest.importorskip("peft", reason="needs the extra `train`")
    lora = LoraSettings(rank=4, alpha=8.0, targets=("q_proj", "v_proj", "up_proj"))
    config = replace(config, zero_stage=stage, lora=lora, optimizer=OptimizerConfig(learning_rate=2e-2))
    pair.run(train, config)
    checkpoint = find_checkpoints(Path(config.checkpoints), config.training)[-1]
    assert all(".lora_" in name for name in checkpoint.shapes())
    merged, base = exported(config, tmp_path / "out"), load_pretrained(config.model)
    changed = {name for name, p in merged.named_parameters() if not torch.equal(p, base.get_parameter(name))}
    assert changed == {
        f"model.layers.{layer}.{name}.weight"
        for layer in range(2)
        for name in ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj")
    }
    assert loss_of(merged, config, step=0) < loss_of(base, config, step=0) - 0.05
    # The merged model has the loss of the unmerged one in the next step of a resumed run.
    (resumed,) = alone.run(train, replace(config, total_steps=7))
    assert losses(resumed)[6] == pytest.approx(loss_of(merged, config, step=6), abs=1e-4)


def loss_of(model: Any, config: TrainingConfig, *, step: int) -> float:
    """Return a model's loss on the batch of a step, without training it."""
    store = SequenceStore(config.train_data)
    indices = BatchOrder(config.seed, len(store), config.batch_size).batch(step)
    batch = read_microbatch(store, indices.tolist(), config.role_weights)
    with torch.no_grad():
        return float(TrainedModel(model)(batch.input_ids, batch.targets, batch.weights) / batch.weights.sum())
