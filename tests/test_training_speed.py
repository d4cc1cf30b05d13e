"""The benchmark of training speed on a short text: both paths run, agree, and are printed together."""

from __future__ import annotations

import pytest
import torch

from benchmarks.training_speed import MaskedAttention, attention_of_models, main
from tests.model.tiny import tiny_model


def test_both_paths_are_compared_and_timed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--length", "160", "--rounds", "1"])
    shown = capsys.readouterr().out
    assert "gradients of the two differ by" in shown
    assert shown.count("times as fast") == 2


def test_the_masked_path_replaces_the_sparse_one_in_a_model() -> None:
    model, tokens = tiny_model(), torch.randint(0, 300, (1, 70))
    sparse = model(tokens).logits
    with attention_of_models(MaskedAttention()):
        masked = model(tokens).logits
    assert not torch.equal(sparse, masked)
    assert torch.allclose(sparse, masked, atol=1e-4)
