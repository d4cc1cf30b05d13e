"""Tiny training runs: a model on disk, sequences to train on, and a run in the ranks of a test's process group."""

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
    """Write sequences of 5 to 41 tokens; the first half of every third is a prompt."""
    rng = np.random.default_rng(seed)
    with StoreWriter(folder) as writer:
        sequences = []
        for number in range(count):
            length = int(rng.integers(5, SEQ_LENGTH + 2))
            roles = [ROLE_TEXT] * length
            if number % 3 == 0:
                roles = [ROLE_PROMPT] * (length // 2) + [ROLE_COMPLETION] * (length - length // 2)
            start = sum(writer.lengths)
            writer.add((rng.integers(0, 40, length) + rng.integers(0, 2) * 100).tolist(), roles)
            sequences.append([(start, start + length)])
        writer.finish(sequences)
    return str(folder)


def write_packed(folder: Path, *, packed: bool, seed: int = 0) -> str:
    """Write 24 sequences of four texts of 2 to 20 tokens each, `packed` or each text a sequence of its own."""
    rng = np.random.default_rng(seed)
    with StoreWriter(folder) as writer:
        texts = []
        for length in rng.integers(2, 21, 96).tolist():
            start = sum(writer.lengths)
            writer.add(rng.integers(0, 40, length).tolist(), [ROLE_TEXT] * length)
            texts.append((start, start + length))
        sequences = [texts[first : first + 4] for first in range(0, len(texts), 4)]
        writer.finish(sequences if packed else [[text] for text in texts], packed=packed)
    return str(folder)


def training_config(folder: Path, *, config: ModelConfig = SMALL, **changes: Any) -> TrainingConfig:
    """Return a config of six steps of five sequences; `changes` replace its fields."""
    model = folder / "model"
    if not model.exists():
        write_tiny_model(model, config=config)
        write_sequences(folder / "train")
    training = TrainingConfig(
        training="0" * 32,
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
    return replace(training, **changes)


def train(config: TrainingConfig) -> list[dict[str, Any]]:
    """Run the training in a rank to its end. Returns the log."""
    Training(config).run()
    return read_log(Path(config.log))
