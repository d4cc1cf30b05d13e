"""Low-rank changes by `peft`, and the merged weights they come to. The merge needs no peft, only two products."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from model.errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor

    from model.training_plan import LoraPlan

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj")


def check_peft() -> None:
    """Raise RequestError where peft is not installed."""
    try:
        import peft  # noqa: F401
    except ImportError:
        raise RequestError("--lora-rank needs peft; install tirazh[train], or leave the flag out") from None


def add_lora(model: Any, plan: LoraPlan, *, seed: int) -> Any:
    """The model with low-rank changes that train, and everything else frozen. The same seed gives the same weights."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(r=plan.rank, lora_alpha=plan.alpha, target_modules=list(plan.targets), bias="none")  # type: ignore[arg-type]
    return get_peft_model(model, config)


def merged_reader(
    read_base: Callable[[str], Tensor],
    read_trained: Callable[[str], Tensor],
    trained: Mapping[str, tuple[int, ...]],
    plan: LoraPlan,
) -> Callable[[str], Tensor]:
    """Reads whole weights by our names: the base's, and `alpha / rank * B @ A` more where there is a change."""

    def read(name: str) -> Tensor:
        stem = name.removesuffix(".weight")
        first, second = (f"{stem}.lora_{letter}.default.weight" for letter in "AB")
        base = read_base(name).float()
        if first not in trained:
            return base
        return base + plan.alpha / plan.rank * (read_trained(second).float() @ read_trained(first).float())

    return read
