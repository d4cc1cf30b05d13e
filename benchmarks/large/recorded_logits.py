"""The model's engine, which also keeps the logits of every prompt: an engine module for `run_job(engine="module:…")`.

They are written beside the model, as `FOLDER/recorded.pt`: a list of (token ids of the prompt, float32 [vocab]).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from tirazh.actors.messages import ReplicaConfig
from tirazh.actors.model_engine import build_engine as _build_engine
from tirazh.actors.model_engine import build_runner, count_weight_bytes
from tirazh.model.engine.batch_engine import BatchEngine
from tirazh.model.engine.runner import ModelRunner
from tirazh.model.engine.sliced_logits import SlicedLogits
from tirazh.model.step import Step

__all__ = ["FILE", "build_engine", "build_runner", "count_weight_bytes"]

FILE = "recorded.pt"


def build_engine(
    config: ReplicaConfig, runner: ModelRunner, execute: Callable[[Step], Tensor | SlicedLogits]
) -> BatchEngine:
    """As the model's engine; prompts must fit in one chunk."""
    path = Path(config.model_directory()) / FILE
    recorded: list[tuple[list[int], Tensor]] = []

    def execute_and_keep(step: Step) -> Tensor | SlicedLogits:
        logits = execute(step)
        if step.phase == "prefill" and isinstance(logits, Tensor):
            for row, values in zip(step.logit_rows.tolist(), logits, strict=True):
                segment = next(each for each in step.segments if each.row <= row < each.row + each.length)
                assert segment.start == 0, "a prompt was cut, or shares its beginning with others"
                recorded.append((step.token_ids[segment.row : row + 1].tolist(), values.clone()))
            torch.save(recorded, path)
        return logits

    return _build_engine(config, runner, execute_and_keep)
