"""The configuration of a training run, which the driver sends to every worker. Standard library only.

A token's role selects its loss weight: ROLE_PROMPT (0 by default), ROLE_TEXT for plain text (always
1), and ROLE_COMPLETION for what follows a prompt.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from tirazh.model.config import ModelSettings
from tirazh.model.training.selection import NO_SELECTION, Selection

T = TypeVar("T")

ROLE_PROMPT, ROLE_TEXT, ROLE_COMPLETION = 0, 1, 2
# What a step computes from its data and settings; another number is another training. 2: packed documents do
# not see each other, and the rate reaches its floor. 3: the last step has a rate above 0.
STEPS_VERSION = 3
# The linear layers of a ruGPT-3 that LoRA can adapt.
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj")


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """AdamW and its learning rate: a linear warm-up, then `schedule` down to `min_learning_rate`."""

    learning_rate: float
    min_learning_rate: float = 0.0
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_steps: int = 0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    max_grad_norm: float = 1.0

    def rate(self, step: int, total_steps: int) -> float:
        """Return the learning rate of step `step` (from 0).

        It rises to its peak in the last warm-up step, or the first step where there is none, and falls from
        there to its floor in the last step. A floor of 0 comes after the last step, which would change nothing with it.
        """
        warmup = max(1, self.warmup_steps)
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        floor_step = total_steps - 1 if self.min_learning_rate else total_steps
        left = (floor_step - step) / (floor_step + 1 - warmup)
        share = {"linear": left, "cosine": (1 - math.cos(math.pi * left)) / 2, "constant": 1.0}[self.schedule]
        return self.min_learning_rate + (self.learning_rate - self.min_learning_rate) * share


def default_warmup_steps(total_steps: int) -> int:
    """Return the number of warm-up steps where none is given: 1 % of all steps, or 10 if that is more.

    A short training takes a tenth of its steps instead of 10.
    """
    return max(math.ceil(total_steps / 100), min(10, math.ceil(total_steps / 10)))


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraSettings:
    """LoRA (Hu et al. 2021): `weight + alpha / rank * B @ A` in the linear layers named by `targets`."""

    rank: int
    alpha: float
    targets: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class StartCheckpoint:
    """The checkpoint of another training that a new one starts from: its directory, and its step there."""

    folder: str
    step: int
    with_optimizer: bool = True


class Fence(Protocol):
    """The right of a run to write to its output, as its workers see it: a lease's token."""

    def guard(self, action: Callable[[], T], *, undo: Callable[[], None] | None = None) -> T:
        """Perform a write while the run holds its output, and return its result.

        Waits while the lease is only late. Raises JobError when another run has taken over.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """One training run. Every worker must see all paths.

    `training` identifies the training: only its own checkpoints are resumed from, kept and
    exported. The first worker checks the `fence` before it writes; without one it always may.
    `role_weights` are the loss weights by role. When the file `stop_request` exists, the workers
    finish the current step, write a checkpoint and stop. A training begins at `first_step` with the weights of the
    checkpoint `start`, or at step 0 with those of the model.
    """

    training: str
    model: str
    model_settings: ModelSettings
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
    fence: Fence | None = None
    lora: LoraSettings | None = None
    zero_stage: int = 0
    offload: Literal["none", "optimizer", "all"] = "none"
    activation_checkpointing: bool = False
    save_steps: int = 500
    keep_checkpoints: int = 2
    eval_steps: int = 0
    selection: Selection = NO_SELECTION
    start: StartCheckpoint | None = None
    first_step: int = 0
    threads: int = 0
