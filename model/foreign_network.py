"""A model of transformers as the engine sees it: traced once, run over a step, its logits by its own class.

Two tokens run through the model once, and every layer's call of attention tells heads, head dim, sliding window and
softcap.
Legend: N rows of a step, R rows whose logits are read, C channels.
"""

from __future__ import annotations

import copy
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from tirazh.errors import CheckpointError
from tirazh.model.attention.backends.interface import StepAttention
from tirazh.model.attention.layer_shape import LayerShape
from tirazh.model.attention.step_attention import ATTENTION_NAME, TRACED_NAME, AttentionTrace, attending

_traced: WeakKeyDictionary[nn.Module, list[LayerShape]] = WeakKeyDictionary()


def model_type(model: Any) -> str:
    """The model_type in a model's config."""
    return str(model.config.model_type)


def prepare(model: Any) -> None:
    """Give the model the engine's attention."""
    model.set_attn_implementation(ATTENTION_NAME)


def layer_shapes(model: nn.Module) -> list[LayerShape]:
    """The cache shape of every attention layer, as `engine.network.layer_shapes`."""
    if model not in _traced:
        _traced[model] = trace_layers(model)
    return _traced[model]


@torch.inference_mode()
def trace_layers(model: Any) -> list[LayerShape]:
    """The shapes of a model as it is now, by running it. Raises CheckpointError for a model whose layers do not all
    reach the engine's attention."""
    trace = AttentionTrace()
    device = model.get_input_embeddings().weight.device
    model.set_attn_implementation(TRACED_NAME)
    positions = torch.arange(2, device=device)
    try:
        run_base(model, torch.zeros_like(positions), positions, trace)
    except CheckpointError as error:
        raise CheckpointError(f"model_type {model_type(model)} cannot be run: {error}") from None
    finally:
        model.set_attn_implementation(ATTENTION_NAME)
    expected = int(model.config.get_text_config().num_hidden_layers)
    if sorted(trace.shapes) != list(range(expected)):
        raise CheckpointError(
            f"model_type {model_type(model)} cannot be run: {len(trace.shapes)} of its {expected} layers use the "
            "attention interface of transformers, the others attend by themselves"
        )
    return [trace.shapes[layer] for layer in range(expected)]


def run_base(model: Any, token_ids: Tensor, positions: Tensor, step: StepAttention | AttentionTrace) -> Tensor:
    """Last hidden states [N, C] of token_ids and positions, int64 [N] on the model's device."""
    base = getattr(model, str(model.base_model_prefix))
    with attending(step):
        out = base(input_ids=token_ids[None], position_ids=positions[None], use_cache=False)
    hidden: Tensor = out.last_hidden_state
    return hidden[0]


class LogitsHead:
    """Logits as the causal LM's own class computes them, with its scales and softcaps."""

    def __init__(self, model: nn.Module) -> None:
        # The same model with other hidden states: the copy shares all weights, and has no transformer.
        self._given = _GivenHidden()
        self._wrapper = copy.copy(model)
        self._wrapper._modules = dict(model._modules) | {str(model.base_model_prefix): self._given}

    def __call__(self, hidden_RC: Tensor) -> Tensor:
        """[R, C] to [R, vocab], in the model's dtype."""
        self._given.hidden = hidden_RC[None]
        token_ids = torch.zeros(1, len(hidden_RC), dtype=torch.int64, device=hidden_RC.device)
        logits: Tensor = self._wrapper(input_ids=token_ids, use_cache=False).logits
        self._given.hidden = None
        return logits[0]


class _GivenHidden(nn.Module):
    """Takes the place of a transformer whose hidden states are known."""

    hidden: Tensor | None = None

    def forward(self, *_: Any, **__: Any) -> BaseModelOutputWithPastAndCrossAttentions:
        """Return the hidden states that were given."""
        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=self.hidden)

    def decoder(self, *_: Any, **__: Any) -> BaseModelOutputWithPastAndCrossAttentions:
        """As `forward`: the wrapper of OPT calls the decoder in its transformer."""
        return self.forward()
