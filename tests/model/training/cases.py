"""Tiny trainings: a model on disk, sequences to learn, and a run of them in the ranks of a test's process group."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.model.tiny import SMALL_PATTERN
from tests.system.tiny_model import TINY, write_tiny_model
from tirazh.model.config import ModelConfig, ModelSettings
from tirazh.model.training.config import ROLE_COMPLETION, ROLE_PROMPT, ROLE_TEXT, OptimizerConfig, TrainingConfig
from tirazh.model.training.log import read_log
from tirazh.model.training.loop import Training
from tirazh.model.training.sequence_store import StoreWriter

SMALL = replace(TINY, num_layers=2, hidden_size=32, sparse_pattern=SMALL_PATTERN)
SEQ_LENGTH = 40  # two windows of 16 tokens and a bit


def write_sequences(folder: Path, *, count: int = 24, seed: int = 0) -> str:
    """Sequences of 5 to 41 tokens; of every third the first half is a prompt."""
    draw = np.random.default_rng(seed)
    with StoreWriter(folder) as writer:
        pieces = []
        for number in range(count):
            length = int(draw.integers(5, SEQ_LENGTH + 2))
            roles = [ROLE_TEXT] * length
            if number % 3 == 0:
                roles = [ROLE_PROMPT] * (length // 2) + [ROLE_COMPLETION] * (length - length // 2)
            begin = sum(writer.lengths)
            writer.add((draw.integers(0, 40, length) + draw.integers(0, 2) * 100).tolist(), roles)
            pieces.append([(begin, begin + length)])
        writer.finish(pieces)
    return str(folder)


def training_plan(folder: Path, *, config: ModelConfig = SMALL, **changes: Any) -> TrainingConfig:
    """Six steps of five sequences; `changes` are fields of the plan."""
    model = folder / "model"
    if not model.exists():
        write_tiny_model(model, config=config)
        write_sequences(folder / "train")
    plan = TrainingConfig(
        model=str(model),
        model_settings=ModelSettings(),
        dtype="float32",
        device="cpu",
        train_data=str(folder / "train"),
        eval_data=None,
        label_data=None,
        checkpoints=str(folder / "checkpoints"),
        log=str(folder / "losses.jsonl"),
        stop_request=str(folder / "stop"),
        total_steps=6,
        batch_size=5,
        micro_batch_size=2,
        seed=3,
        role_weights=(0.0, 1.0, 2.0),
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=2),
        save_steps=3,
        keep_checkpoints=9,
    )
    return replace(plan, **changes)


def train(plan: TrainingConfig) -> list[dict[str, Any]]:
    """Run in a rank, to the end. Returns the log."""
    Training(plan).run()
    return read_log(Path(plan.log))
