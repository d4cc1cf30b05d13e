"""Measures the speed of a training: a few steps in this process, without other workers. Writes no checkpoint."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

import torch
import torch.distributed as dist

from tirazh.model.training.config import TrainingConfig
from tirazh.model.training.loop import Training

_STEPS = 3
_ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}


def measure_step_s(config: TrainingConfig) -> float:
    """Return the seconds of an optimizer step: the median of a few, without the first one.

    Loads the model, and trains a copy that is thrown away.
    """
    if config.device == "cpu":
        torch.set_num_threads(max(1, config.threads))
    with _one_worker("nccl" if config.device == "cuda" else "gloo"):
        training = Training(config)
        seconds = [training.measure(step) for step in range(_STEPS)]
    return median(seconds[1:])


@contextmanager
def _one_worker(backend: str) -> Iterator[None]:
    """Inside the block, this process is a group of one worker, as DeepSpeed needs it."""
    alone = _ALONE | ({"DS_ACCELERATOR": "cpu"} if backend == "gloo" else {})  # else DeepSpeed warns that it looks
    saved = {name: os.environ.get(name) for name in alone}
    os.environ |= alone
    with tempfile.TemporaryDirectory(prefix="tirazh-probe-") as folder:
        dist.init_process_group(backend, init_method=f"file://{folder}/group", rank=0, world_size=1)
        try:
            yield
        finally:
            dist.destroy_process_group()
            for name, value in saved.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
