"""Connects transformers models to the batch engine's attention.

transformers looks attention up by name. Under the name `ATTENTION_NAME` it finds a function that
passes a layer's queries, keys and values on to the `StepAttention` of the step, which the runner
hands to the model as the keyword `step`. So the engine runs any model that uses transformers'
attention interface, not only ours.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from tirazh.model.attention.backends.interface import StepAttention

ATTENTION_NAME = "tirazh"


def _engine_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    step: StepAttention,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """What an attention layer of transformers calls: [1, H, N, D] in, [1, N, H, D] out."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q_NHD, k_NKD, v_NKD = (x[0].transpose(0, 1) for x in (query, key, value))
    return step.attend(int(module.layer_idx), q_NHD, k_NKD, v_NKD, scale)[None], None  # type: ignore[arg-type]


AttentionInterface.register(ATTENTION_NAME, _engine_attention)
# The engine passes no masks: what a row sees is part of the step.
AttentionMaskInterface.register(ATTENTION_NAME, lambda *_, **__: None)
