"""Connects transformers models to the batch engine's attention.

transformers looks attention up by name. Under the name `ATTENTION_NAME` it finds a function that
passes a layer's queries, keys and values on to the `StepAttention` of the step, which runs inside `attending`. A
ruGPT-3 does without: its layers call the step's attention themselves (`Transformer.run_step`).

Whatever else a model passes to its attention is either known here or refused: an argument that was
left out would make its answers wrong without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from tirazh.errors import CheckpointError
from tirazh.model.attention.backends.interface import StepAttention
from tirazh.model.attention.layer_shape import AttentionRules, LayerShape

ATTENTION_NAME = "tirazh"
TRACED_NAME = "tirazh-traced"

# Arguments that change nothing here: the engine knows the positions, and no caller asks for weights.
_HARMLESS = {"position_ids", "cache_position", "use_cache", "output_attentions", "output_hidden_states", "return_dict"}
# A window is read off a mask at this query. Windows that are longer are no windows to any job.
_FAR_QUERY = 1 << 18


class AttentionTrace:
    """Stands in for a step's attention and records what each layer of a model passes to it."""

    def __init__(self) -> None:
        self.shapes: dict[int, LayerShape] = {}

    def record(self, layer: int, k_NKD: Tensor, v_NKD: Tensor, rules: AttentionRules) -> None:
        """Note the shape of a layer. Raises CheckpointError for layers that the cache cannot hold."""
        if layer in self.shapes:
            raise CheckpointError(f"the model computes attention twice in layer {layer}, which the engine cannot do")
        if k_NKD.shape != v_NKD.shape:
            raise CheckpointError(f"keys and values differ in width in layer {layer}, which the engine cannot do")
        self.shapes[layer] = LayerShape(k_NKD.shape[1], k_NKD.shape[2], rules=rules)


class _TracedMask:
    """What a model gets for a mask while it is traced: the window that the mask stands for."""

    def __init__(self, window: int | None) -> None:
        self.window = window


_running: ContextVar[StepAttention | AttentionTrace | None] = ContextVar("running", default=None)


@contextmanager
def attending(step: StepAttention | AttentionTrace) -> Iterator[None]:
    """Inside, attention of models with one of our implementations is that of `step`."""
    token = _running.set(step)
    try:
        yield
    finally:
        _running.reset(token)


def _traced_mask(*_: Any, mask_function: Callable[..., Tensor], use_vmap: bool = False, **__: Any) -> _TracedMask:
    """What transformers calls for the mask of a model that is traced.

    Raises CheckpointError for a mask that is neither causal nor a sliding window.
    """
    if use_vmap:
        raise CheckpointError("the model adds to its causal mask, which the engine cannot do")
    windows = {_window_at(mask_function, query) for query in (_FAR_QUERY, _FAR_QUERY + 37)}
    if len(windows) > 1 or -1 in windows:
        raise CheckpointError("the model's mask is neither causal nor a sliding window, and the engine has no other")
    return _TracedMask(windows.pop())


def _window_at(mask_function: Callable[..., Tensor], query: int) -> int | None:
    """Keys that `query` sees of those up to itself; None for all, -1 for anything that is no window."""
    zero, keys = torch.zeros((), dtype=torch.int64), torch.arange(query + 2)
    visible = mask_function(zero, zero, torch.tensor(query), keys).expand(query + 2)
    window = int(visible.sum())
    is_last = bool(visible[query - window + 1 : query + 1].all()) and not bool(visible[query + 1])
    if not is_last:
        return -1
    return None if window == query + 1 else window


def _engine_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    *,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """What an attention layer of transformers calls: [1, H, N, D] in, [1, N, H, D] out.

    Raises CheckpointError for arguments that the engine's attention does not know.
    """
    rules = _rules(attention_mask, **others)
    step = _running.get()
    assert step is not None, "this attention runs inside the engine only"
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q_NHD, k_NKD, v_NKD = (x[0].transpose(0, 1) for x in (query, key, value))
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    if isinstance(step, AttentionTrace):
        step.record(layer, k_NKD, v_NKD, rules)
        return torch.zeros_like(q_NHD)[None], None
    return step.attend(layer, q_NHD, k_NKD, v_NKD, scale)[None], None


def _rules(
    attention_mask: Any,
    *,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> AttentionRules:
    """The rules of one call. Without a traced mask the window is what the argument says."""
    unknown = [name for name, value in others.items() if name not in _HARMLESS and value is not None]
    if dropout:
        unknown.append("dropout")
    if is_causal is False:
        unknown.append("is_causal=False")
    if attention_mask is not None and not isinstance(attention_mask, _TracedMask):
        unknown.append("a mask of its own")
    if unknown:
        raise CheckpointError(f"the model passes {', '.join(unknown)} to its attention, which the engine does not know")
    if sliding_window is not None and sliding_window >= _FAR_QUERY:
        sliding_window = None
    if isinstance(attention_mask, _TracedMask) and sliding_window not in (None, attention_mask.window):
        raise CheckpointError(
            f"the model's mask has a window of {attention_mask.window} tokens, its attention one of {sliding_window}"
        )
    window = attention_mask.window if isinstance(attention_mask, _TracedMask) else sliding_window
    return AttentionRules(window, softcap)


AttentionInterface.register(ATTENTION_NAME, _engine_attention)
AttentionInterface.register(TRACED_NAME, _engine_attention)
# Without a function for masks under `ATTENTION_NAME`, models make none in a step: what a row sees is
# part of the step.
AttentionMaskInterface.register(TRACED_NAME, _traced_mask)
