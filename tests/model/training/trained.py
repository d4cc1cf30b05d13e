"""Checkpoints of trainings that never ran: any weights, as a training would have saved them; and their exports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from tests.model.checkpoints.samples import TINY, TINY_DENSE, random_weights, write_gpt2, write_native
from tests.system.tiny_model import byte_tokenizer
from tirazh.model.checkpoints.directory import open_checkpoint
from tirazh.model.config import ModelConfig
from tirazh.model.training.checkpoint import TrainingCheckpoint, TrainingState, find_checkpoints, write_checkpoint
from tirazh.model.training.config import LoraSettings
from tirazh.model.training.export import export_model

Weights = Mapping[str, torch.Tensor]
TRAINING = "0" * 32
VOCABULARY = 264  # bytes, the end of a text, and some padding
DENSE = replace(TINY_DENSE, vocab_size=VOCABULARY)
SPARSE = replace(TINY, vocab_size=VOCABULARY)


def trained_weights(config: ModelConfig, *, seed: int = 1) -> dict[str, torch.Tensor]:
    """Return float32 weights so large that a wrong one changes the logits visibly."""
    return {name: 6 * tensor for name, tensor in random_weights(config, seed=seed, dtype=torch.float32).items()}


def write_base(folder: Path, config: ModelConfig, *, is_gpt2: bool = False) -> Path:
    """Write the model from which a training started, with a tokenizer of bytes."""
    weights = {name: tensor.contiguous() for name, tensor in trained_weights(config, seed=0).items()}
    if is_gpt2:
        write_gpt2(folder, weights, config)
    else:
        write_native(folder, weights, config)
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def save_checkpoint(folder: Path, weights: Weights, *, step: int = 5, training: str = TRAINING) -> TrainingCheckpoint:
    """Write a checkpoint with these weights."""
    state = TrainingState(
        training=training,
        step=step,
        shapes={name: tuple(tensor.shape) for name, tensor in weights.items()},
        states=(),
        gather=lambda name, kind: weights[name],
        scalars={},
    )
    write_checkpoint(folder, state, keep=9)
    return find_checkpoints(folder, training)[-1]


def export_trained(
    folder: Path,
    base: Path,
    weights: Weights,
    *,
    lora: LoraSettings | None = None,
    dtype: str | None = None,
) -> Path:
    """Export a checkpoint with these weights to `folder`."""
    checkpoint = save_checkpoint(folder.with_name(f"{folder.name}-checkpoints"), weights)
    folder.mkdir(parents=True)
    export_model(folder, open_checkpoint(str(base)), checkpoint, lora=lora, dtype=dtype)
    return folder
