"""What the plan of a training asks of this machine: its GPUs, its free memory, and the speed of a few steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tirazh.model.host_memory import free_host_bytes

if TYPE_CHECKING:
    from tirazh.model.training.config import TrainingConfig

__all__ = ["count_gpus", "free_host_bytes", "step_seconds"]


def count_gpus() -> int:
    """Return the number of GPUs that this process sees."""
    import torch

    return int(torch.cuda.device_count())


def step_seconds(config: TrainingConfig) -> float:
    """Return the seconds of an optimizer step, as `model/training/probe.py` measures it in this process."""
    from tirazh.model.training.probe import measure_step_s

    return measure_step_s(config)
