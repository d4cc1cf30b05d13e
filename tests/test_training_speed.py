"""The benchmark of training speed on a short text: both paths run, agree, and are printed together."""

from __future__ import annotations

import pytest
import torch

from benchmarks.training_rounds import Shape, Side, compare
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


@pytest.mark.slow
def test_whole_steps_are_timed_in_turns_with_the_trainer(capsys: pytest.CaptureFixture[str]) -> None:
    """Both begin at the loss of a model that knows nothing, on the same tokens."""
    pytest.importorskip("accelerate", reason="transformers' Trainer needs it")
    shape = Shape(layers=2, hidden=32, heads=2, vocab=320, length=40, batch=4, micro_batch=2)
    sparse = Shape(
        layers=2, hidden=64, heads=2, vocab=320, length=300, batch=2, micro_batch=1, sparse_mode="alternating"
    )
    found = compare(
        [
            Side(name="ours", trainer="tirazh", dtype="float32", shape=shape),
            Side(name="theirs", trainer="transformers", dtype="float32", shape=shape),
            Side(name="masked", trainer="tirazh", dtype="float32", shape=sparse, masked=True),
        ],
        rounds=2,
        threads=1,
    )
    assert capsys.readouterr().out.count("tokens/s") == 3
    for each in found.values():
        assert len(each.seconds) == 2
        assert each.peak > 1e8
        assert each.loss == pytest.approx(5.77, abs=0.3)  # log(320)
