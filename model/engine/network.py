"""What the runner needs from a model: the shapes of its attention layers, hidden states and logits.

A ruGPT-3 says its shapes itself. Any other model of transformers is traced: it runs two tokens once,
and every layer's call of attention tells heads, head dim, sliding window and softcap.
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
from tirazh.model.architectures import longest_exact_sequence
from tirazh.model.attention.backends.interface import StepAttention
from tirazh.model.attention.layer_shape import LayerKind, LayerShape
from tirazh.model.attention.step_attention import ATTENTION_NAME, TRACED_NAME, AttentionTrace, attending

_traced: WeakKeyDictionary[nn.Module, list[LayerShape]] = WeakKeyDictionary()


def is_own(model: nn.Module) -> bool:
    """Whether the model is a ruGPT-3, whose config class and layers are ours."""
    return model_type(model) == "rugpt3"


def model_type(model: Any) -> str:
    """The model_type in a model's config."""
    return str(model.config.model_type)


def hidden_size(model: nn.Module) -> int:
    """Hidden size of a transformers causal LM."""
    return int(model.get_input_embeddings().embedding_dim)  # type: ignore[operator]


def layer_shapes(model: nn.Module) -> list[LayerShape]:
    """The cache shape of every attention layer of a transformers causal LM, with the heads of this
    rank.

    With tensor parallelism all ranks call this together the first time. Raises CheckpointError for
    a model whose layers do not all reach the engine's attention.
    """
    if is_own(model):
        attentions = sorted(
            (m for m in model.modules() if hasattr(m, "layer_idx") and hasattr(m, "global_starts")),
            key=lambda attention: int(attention.layer_idx),  # type: ignore[arg-type]
        )
        return [_own_shape(attention) for attention in attentions]
    if model not in _traced:
        _traced[model] = trace_layers(model)
    return _traced[model]


def _own_shape(attention: Any) -> LayerShape:
    fused = attention.qkv_proj
    size = attention.k_proj.weight.shape[0] if fused is None else fused.out_features // 3
    num_heads = size // attention.head_dim
    if attention.kind is LayerKind.SPARSE:
        return LayerShape(num_heads, attention.head_dim, attention.pattern, tuple(attention.global_starts))
    return LayerShape(num_heads, attention.head_dim)


@torch.inference_mode()
def trace_layers(model: Any) -> list[LayerShape]:
    """The shapes of a model of transformers as it is now, by running it. Raises as `layer_shapes`."""
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
    keywords = {"step": step} if is_own(model) else {}
    with attending(step):
        out = base(input_ids=token_ids[None], position_ids=positions[None], use_cache=False, **keywords)
    hidden: Tensor = out.last_hidden_state
    return hidden[0]


def check_length(model: Any, max_length: int) -> None:
    """Raise CheckpointError where a row of `max_length` tokens would change the rows beside it."""
    longest = longest_exact_sequence(model.config.to_dict())
    if longest is not None and max_length > longest.num_tokens:
        raise CheckpointError(f"model_type {model_type(model)} cannot be run at {max_length} tokens: {longest.reason}")


class LogitsHead:
    """Logits as the causal LM's own class computes them, with its scales and softcaps."""

    def __init__(self, model: nn.Module) -> None:
        self._head: nn.Module | None = None
        if is_own(model):
            self._head = model.get_output_embeddings()  # type: ignore[operator]
            return
        # The same model with other hidden states: the copy shares all weights, and has no transformer.
        self._given = _GivenHidden()
        self._wrapper = copy.copy(model)
        self._wrapper._modules = dict(model._modules) | {str(model.base_model_prefix): self._given}

    def __call__(self, hidden_RC: Tensor) -> Tensor:
        """[R, C] to [R, vocab], in the model's dtype."""
        if self._head is not None:
            own: Tensor = self._head(hidden_RC)
            return own
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
