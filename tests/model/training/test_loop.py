"""A training gives the same curve whoever runs it: any number of workers, any ZeRO stage, interrupted or not."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch

from tests.distributed import RankPool, run_distributed
from tests.model.tiny import build_engine, run
from tests.model.training.cases import SMALL, train, training_plan
from tirazh.errors import CheckpointError
from tirazh.model.checkpoints.directory import open_checkpoint
from tirazh.model.load import load_pretrained
from tirazh.model.requests import EngineJob, ScoreRequest
from tirazh.model.tokenizer import load_tokenizer
from tirazh.model.training.batch import TrainedModel, build_microbatch
from tirazh.model.training.batch_order import BatchOrder
from tirazh.model.training.checkpoint import find_checkpoints
from tirazh.model.training.config import ROLE_PROMPT, LoraSettings, OptimizerConfig, TrainingConfig
from tirazh.model.training.export import export_model
from tirazh.model.training.label_file import LabelFile
from tirazh.model.training.log import read_log
from tirazh.model.training.sequence_store import SequenceStore, StoreWriter


@pytest.fixture(scope="module")
def alone() -> Iterator[RankPool]:
    with run_distributed(1) as pool:
        yield pool


@pytest.fixture(scope="module")
def pair() -> Iterator[RankPool]:
    with run_distributed(2) as pool:
        yield pool


@pytest.fixture
def plan(tmp_path: Path) -> TrainingConfig:
    return training_plan(tmp_path)


@pytest.fixture(scope="module")
def curve(alone: RankPool, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of one worker without ZeRO."""
    (log,) = alone.run(train, training_plan(tmp_path_factory.mktemp("curve")))
    return losses(log)


def losses(log: list[dict[str, Any]]) -> list[float]:
    return [entry["loss"] for entry in log if "loss" in entry]


def test_a_training_learns(curve: list[float]) -> None:
    assert len(curve) == 6
    assert curve[-1] < curve[0] - 0.3


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_workers_give_the_curve_of_one(
    stage: int, plan: TrainingConfig, pair: RankPool, curve: list[float]
) -> None:
    """Five sequences, two workers: one of them runs two and the other three."""
    log, _ = pair.run(train, replace(plan, zero_stage=stage))
    assert losses(log) == pytest.approx(curve, abs=1e-5)


@pytest.mark.parametrize(("stage", "dtype"), [(0, "float32"), (1, "bfloat16"), (2, "float32"), (3, "bfloat16")])
def test_a_training_goes_on_exactly_where_its_checkpoint_was_taken(
    stage: int, dtype: str, plan: TrainingConfig, alone: RankPool
) -> None:
    """Two steps beyond the checkpoint were made, and are made again, to the last bit."""
    plan = replace(plan, zero_stage=stage, dtype=dtype)
    (whole,) = alone.run(train, plan)
    keep_first_checkpoint(plan)
    (log,) = alone.run(train, plan)
    assert [entry["step"] for entry in log] == [1, 2, 3, 4, 5, 6]
    assert losses(log) == losses(whole)


@pytest.mark.parametrize(("stage", "dtype"), [(0, "float32"), (1, "bfloat16"), (3, "float32")])
def test_one_worker_takes_up_what_two_began_at_another_stage(
    stage: int, dtype: str, plan: TrainingConfig, alone: RankPool, pair: RankPool
) -> None:
    plan = replace(plan, zero_stage=stage, dtype=dtype)
    whole = losses(pair.run(train, plan)[0])
    keep_first_checkpoint(plan)
    (log,) = alone.run(train, replace(plan, zero_stage=2))
    assert losses(log) == pytest.approx(whole, abs=1e-5 if dtype == "float32" else 0.02)


def keep_first_checkpoint(plan: TrainingConfig) -> None:
    """As if the workers had been killed after it."""
    for checkpoint in find_checkpoints(Path(plan.checkpoints))[1:]:
        shutil.rmtree(checkpoint.folder)


def test_a_checkpoint_of_another_model_is_refused(plan: TrainingConfig, alone: RankPool, tmp_path: Path) -> None:
    alone.run(train, plan)
    other = training_plan(tmp_path / "other", config=replace(SMALL, hidden_size=64), checkpoints=plan.checkpoints)
    with pytest.raises(CheckpointError, match="is damaged or of another model; remove"):
        alone.run(train, other)


def test_a_loss_that_is_no_number_ends_the_training_with_a_reason(plan: TrainingConfig, alone: RankPool) -> None:
    wild = replace(plan, optimizer=OptimizerConfig(learning_rate=1e30, max_grad_norm=0.0))
    (log,) = alone.run(train, wild)
    assert log[-1]["stopped"].startswith("the loss is")
    assert not [each for each in find_checkpoints(Path(plan.checkpoints)) if each.step == 6]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_training_that_is_asked_to_stop_loses_no_step(
    workers: int, plan: TrainingConfig, alone: RankPool, pair: RankPool, tmp_path: Path
) -> None:
    pool = alone if workers == 1 else pair
    plan = replace(plan, total_steps=150, save_steps=1000)
    whole = pool.run(train, replace(plan, checkpoints=str(tmp_path / "whole"), log=str(tmp_path / "whole.jsonl")))[0]
    asking = Thread(target=ask_to_stop, args=(plan, 3))
    asking.start()
    done = losses(pool.run(train, plan)[0])
    asking.join()
    assert 3 <= len(done) < 150
    assert [each.step for each in find_checkpoints(Path(plan.checkpoints))] == [len(done)]
    Path(plan.stop_request).unlink()
    assert losses(pool.run(train, plan)[0]) == losses(whole)


def ask_to_stop(plan: TrainingConfig, step: int) -> None:
    while len(read_log(Path(plan.log))) < step:
        time.sleep(0.001)
    Path(plan.stop_request).touch()


def test_a_training_that_is_asked_to_stop_before_it_begins_does_nothing(plan: TrainingConfig, alone: RankPool) -> None:
    Path(plan.stop_request).touch()
    assert alone.run(train, plan) == [[]]
    assert not find_checkpoints(Path(plan.checkpoints))


def test_old_checkpoints_make_room_for_new_ones(plan: TrainingConfig, alone: RankPool) -> None:
    alone.run(train, replace(plan, save_steps=1, keep_checkpoints=2))
    assert [each.step for each in find_checkpoints(Path(plan.checkpoints))] == [5, 6]


@pytest.mark.parametrize("stage", [0, 3])
def test_evaluation_is_the_same_for_any_number_of_workers(
    stage: int, plan: TrainingConfig, alone: RankPool, pair: RankPool, tmp_path: Path
) -> None:
    plan = replace(plan, zero_stage=stage, eval_data=plan.train_data, label_data=write_labels(tmp_path / "labels"))
    found = []
    for pool, name in ((alone, "one"), (pair, "two")):
        own = replace(plan, checkpoints=str(tmp_path / name), log=str(tmp_path / f"{name}.jsonl"), eval_steps=3)
        found.append([entry for entry in pool.run(train, own)[0] if "perplexity" in entry])
    assert [entry["step"] for entry in found[0]] == [3, 6]
    for one, two in zip(*found, strict=True):
        assert two == pytest.approx(one, abs=1e-3)


def test_the_likeliest_label_is_the_engines(plan: TrainingConfig, alone: RankPool, tmp_path: Path) -> None:
    """Accuracy at step 0 of labels as the batch engine scores them: all of them right when it says what is right."""
    folder = write_labels(tmp_path / "labels")
    labels, store = LabelFile.read(Path(folder)), SequenceStore(folder)
    model = load_pretrained(plan.model)
    engine = build_engine(model, job=EngineJob(labels=labels.token_ids))
    prompts = [tuple(store.sequence(index)[0].tolist()) for index in range(len(store))]
    results = run(engine, [ScoreRequest(prompt_token_ids=prompt) for prompt in prompts])
    gold = tuple(max(range(3), key=result.logprobs.__getitem__) for result in results)
    replace(labels, gold=gold).write(Path(folder))
    frozen = OptimizerConfig(learning_rate=1e-12)
    (log,) = alone.run(train, replace(plan, label_data=folder, total_steps=1, optimizer=frozen))
    assert log[-1]["accuracy"] == 1.0


def write_labels(folder: Path) -> str:
    """Eight prompts and three labels of one to three tokens that share a beginning."""
    draw = np.random.default_rng(1)
    with StoreWriter(folder) as writer:
        pieces = []
        for length in range(3, 11):
            begin = sum(writer.lengths)
            writer.add(draw.integers(0, 250, length).tolist(), [ROLE_PROMPT] * length)
            pieces.append([(begin, begin + length)])
        writer.finish(pieces)
    tokens = ((5,), (6, 7), (6, 7, 8))
    LabelFile(names=("a", "b", "c"), token_ids=tokens, gold=(0, 1, 2, 0, 1, 2, 0, 1)).write(folder)
    return str(folder)


def exported(plan: TrainingConfig, folder: Path, dtype: str | None = None) -> Any:
    """The model that the last checkpoint becomes."""
    folder.mkdir()
    last = find_checkpoints(Path(plan.checkpoints))[-1]
    export_model(folder, open_checkpoint(plan.model), last, lora=plan.lora, dtype=dtype)
    return load_pretrained(str(folder))


def test_the_last_checkpoint_becomes_a_model_with_its_tokenizer(
    plan: TrainingConfig, alone: RankPool, tmp_path: Path
) -> None:
    alone.run(train, plan)
    model = exported(plan, tmp_path / "out")
    checkpoint = find_checkpoints(Path(plan.checkpoints))[-1]
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, checkpoint.weight_rows(name, 0, parameter.shape[0])), name
    assert load_tokenizer(str(tmp_path / "out")).size == load_tokenizer(plan.model).size
    half = exported(plan, tmp_path / "half", "float16")
    assert torch.allclose(next(half.parameters()), next(model.parameters()), atol=1e-2)
    assert open_checkpoint(str(tmp_path / "half")).dtype("model.norm.weight") == "float16"


@pytest.mark.parametrize("stage", [0, 3])
def test_low_rank_changes_learn_and_are_merged(
    stage: int, plan: TrainingConfig, alone: RankPool, pair: RankPool, tmp_path: Path
) -> None:
    pytest.importorskip("peft", reason="needs the extra `train`")
    lora = LoraSettings(rank=4, alpha=8.0, targets=("q_proj", "v_proj", "up_proj"))
    plan = replace(plan, zero_stage=stage, lora=lora, optimizer=OptimizerConfig(learning_rate=2e-2))
    pair.run(train, plan)
    checkpoint = find_checkpoints(Path(plan.checkpoints))[-1]
    assert all(".lora_" in name for name in checkpoint.shapes())
    merged, base = exported(plan, tmp_path / "out"), load_pretrained(plan.model)
    changed = {name for name, p in merged.named_parameters() if not torch.equal(p, base.get_parameter(name))}
    assert changed == {
        f"model.layers.{layer}.{name}.weight"
        for layer in range(2)
        for name in ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj")
    }
    assert loss_of(merged, plan, step=0) < loss_of(base, plan, step=0) - 0.05
    # The merged model loses as much as the one with its changes beside it does when it goes on.
    (resumed,) = alone.run(train, replace(plan, total_steps=7))
    assert losses(resumed)[6] == pytest.approx(loss_of(merged, plan, step=6), abs=1e-4)


def loss_of(model: Any, plan: TrainingConfig, *, step: int) -> float:
    """The loss of a step's batch by a model that is not trained."""
    store = SequenceStore(plan.train_data)
    indices = BatchOrder(plan.seed, len(store), plan.batch_size).batch(step)
    batch = build_microbatch([store.sequence(int(index)) for index in indices], plan.role_weights)
    with torch.no_grad():
        return float(TrainedModel(model)(batch.input_ids, batch.targets, batch.weights) / batch.weights.sum())
