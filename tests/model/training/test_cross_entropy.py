"""The loss of many tokens is torch's, with the same gradients, in the memory of its logits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tirazh.model.training import cross_entropy as own
from tirazh.model.training.cross_entropy import summed_cross_entropy


def inputs(rows: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits [rows, 50] as a matmul makes them, targets, and weights of which some are 0."""
    generator = torch.Generator().manual_seed(rows)
    logits = (8 * torch.randn(rows, 50, generator=generator)).to(dtype)
    targets = torch.randint(0, 50, (rows,), generator=generator)
    return logits, targets, torch.rand(rows, generator=generator).round(decimals=1)


def torchs(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    return (cross_entropy(logits.float(), targets, reduction="none") * weights).sum()


@pytest.mark.parametrize("rows", [1, 3, 7, 8, 20])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 0.0), (torch.float16, 0.0)])
def test_loss_and_gradients_are_those_of_torch(
    rows: int, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In slices of four rows. A half-precision gradient is rounded once, so it may differ in its last bit."""
    monkeypatch.setattr(own, "_SLICE", {"cpu": 4 * 50})
    logits, targets, weights = inputs(rows, dtype)
    expected, found = (x.requires_grad_() for x in (logits.clone(), logits.clone()))
    theirs, ours = torchs(expected, targets, weights), summed_cross_entropy(found * 1, targets, weights)
    assert ours.dtype == torch.float32
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    (theirs * 0.3).backward()
    (ours * 0.3).backward()
    assert expected.grad is not None
    assert found.grad is not None
    last_bit = expected.grad.float().abs() * torch.finfo(dtype).eps
    assert ((found.grad.float() - expected.grad.float()).abs() <= last_bit + tolerance + 1e-6).all()


def test_the_gradient_takes_the_memory_of_the_logits() -> None:
    logits, targets, weights = inputs(9, torch.float32)
    leaf = logits.requires_grad_()
    made = leaf * 1
    (gradient,) = torch.autograd.grad(summed_cross_entropy(made, targets, weights), made)
    assert gradient.data_ptr() == made.data_ptr()


def test_a_second_backward_pass_is_refused() -> None:
    """The logits are gone by then."""
    logits, targets, weights = inputs(9, torch.float32)
    loss = summed_cross_entropy(logits.requires_grad_() * 1, targets, weights)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_without_gradients_the_logits_stay() -> None:
    logits, targets, weights = inputs(9, torch.float32)
    before = logits.clone()
    with torch.no_grad():
        loss = summed_cross_entropy(logits, targets, weights)
    assert torch.equal(logits, before)
    assert loss.item() == pytest.approx(torchs(logits, targets, weights).item(), rel=1e-6)
