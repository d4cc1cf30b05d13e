"""LoRA by `peft`.

`training/export.py` merges the result, which needs one matmul per layer and no peft.
"""

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


def add_lora(model: Any, lora: LoraSettings, *, seed: int) -> Any:
    """Add trainable LoRA matrices to the model and freeze the rest.

    The same seed gives the same initialisation.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.targets), bias="none")
    return get_peft_model(model, config)
