"""What every worker of a training is told, settled once by the driver. Standard library only; crosses processes.

Roles say what a token is to the loss: ROLE_PROMPT is read only (unless its weight says otherwise), ROLE_TEXT is plain
text, ROLE_COMPLETION follows a prompt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tirazh.model.config import ModelSettings

ROLE_PROMPT, ROLE_TEXT, ROLE_COMPLETION = 0, 1, 2
# The linear layers of a ruGPT-3 that low-rank changes can be made to.
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj")


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """AdamW and its learning rate: up for `warmup_steps`, then along `schedule` down to `min_learning_rate`."""

    learning_rate: float
    min_learning_rate: float = 0.0
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_steps: int = 0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    max_grad_norm: float = 1.0

    def rate(self, step: int, total_steps: int) -> float:
        """The learning rate of step `step` (from 0)."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, total_steps - self.warmup_steps)
        left = {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}[self.schedule]
        return self.min_learning_rate + (self.learning_rate - self.min_learning_rate) * left


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraSettings:
    """Low-rank changes: `weight + alpha / rank * B @ A` for the linear layers named."""

    rank: int
    alpha: float
    targets: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """One training. Paths are such that every worker sees them; `role_weights` are the loss weights by role. Once the
    file `stop_request` is there, the workers write a checkpoint after the step at hand, and end."""

    model: str
    flags: ModelSettings
    dtype: str
    device: str
    train_data: str
    eval_data: str | None
    label_data: str | None
    checkpoints: str
    log: str
    stop_request: str
    total_steps: int
    batch_size: int
    micro_batch_size: int
    seed: int
    role_weights: tuple[float, float, float]
    optimizer: OptimizerConfig
    lora: LoraSettings | None = None
    zero_stage: int = 0
    offload: Literal["none", "optimizer", "all"] = "none"
    activation_checkpointing: bool = False
    save_steps: int = 500
    keep_checkpoints: int = 2
    eval_steps: int = 0
    threads: int = 0
