"""Low-rank changes by `peft`; `training/export.py` merges them, which takes two products and no peft."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from tirazh.errors import RequestError

if TYPE_CHECKING:
    from tirazh.model.training.config import LoraSettings


def check_peft() -> None:
    """Raise RequestError where peft is not installed."""
    if find_spec("peft") is None:
        raise RequestError("--lora-rank needs peft; install tirazh[train], or leave the flag out")


def add_lora(model: Any, plan: LoraSettings, *, seed: int) -> Any:
    """The model with low-rank changes that train, and everything else frozen. The same seed gives the same weights."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(r=plan.rank, lora_alpha=plan.alpha, target_modules=list(plan.targets), bias="none")  # type: ignore[arg-type]
    return get_peft_model(model, config)
