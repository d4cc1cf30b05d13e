"""A rank that loads a model of transformers compares it with transformers before its first request."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.model.families.random_models import MODELS, WINDOW, random_model
from tirazh.actors.messages import ReplicaConfig
from tirazh.actors.model_engine import build_runner
from tirazh.actors.progress import ProgressCounter
from tirazh.actors.rendezvous import RankPlace
from tirazh.errors import CheckpointError
from tirazh.model.attention.layer_shape import AttentionRules
from tirazh.model.engine import self_check

ALONE = RankPlace(rank=0, world_size=1, local_rank=0, local_size=1, threads=1)


def test_a_rank_runs_a_model_that_passes_its_check_and_refuses_one_that_does_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    random_model(MODELS["mistral"]()).save_pretrained(tmp_path)
    config = ReplicaConfig(model=str(tmp_path), slots=2, seq_length=40)
    runner = build_runner(config, ALONE, ProgressCounter())
    assert {shape.rules for shape in runner.shapes} == {AttentionRules(window=WINDOW)}
    monkeypatch.setitem(self_check.TOLERANCE, torch.float32, 0.0)
    with pytest.raises(CheckpointError, match="model_type mistral cannot be run: on a prompt of"):
        build_runner(config, ALONE, ProgressCounter())
