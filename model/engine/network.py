"""What the runner needs from a model: the shapes of its attention layers, hidden states and logits.

A ruGPT-3 says its shapes itself. Any other model is one of transformers (`foreign_network.py`), which only such a
model imports: it takes longer than the rest of a rank's start.
Legend: N rows of a step, R rows whose logits are read, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard

from torch import Tensor, nn

from tirazh.errors import CheckpointError
from tirazh.model.architectures import longest_exact_sequence
from tirazh.model.attention.backends.interface import StepAttention
from tirazh.model.attention.layer_shape import LayerKind, LayerShape
from tirazh.model.layers.kernel_linear import KernelLinear
from tirazh.model.transformer import LanguageModel, RuGPT3Attention


def is_own(model: nn.Module) -> TypeGuard[LanguageModel]:
    """Whether the model is a ruGPT-3, whose layers are ours."""
    return isinstance(model, LanguageModel)


def hidden_size(model: nn.Module) -> int:
    """Hidden size of a causal LM."""
    embedding: Any = model.model.embed_tokens if is_own(model) else model.get_input_embeddings()  # type: ignore[operator]
    return int(embedding.embedding_dim)


def logits_layer(model: nn.Module) -> Any:
    """The linear layer that makes the logits of a causal LM."""
    return model.lm_head if is_own(model) else model.get_output_embeddings()  # type: ignore[operator]


def prepare(model: nn.Module) -> None:
    """Connect a model of transformers to the engine's attention. A ruGPT-3 needs nothing."""
    if not is_own(model):
        from tirazh.model import foreign_network

        foreign_network.prepare(model)


def layer_shapes(model: nn.Module) -> list[LayerShape]:
    """The cache shape of every attention layer of a causal LM, with the heads of this rank.

    With tensor parallelism all ranks call this together the first time. Raises CheckpointError for
    a model whose layers do not all reach the engine's attention.
    """
    if is_own(model):
        return [_own_shape(attention) for attention in model.model.attentions]
    from tirazh.model import foreign_network

    return foreign_network.layer_shapes(model)


def _own_shape(attention: RuGPT3Attention) -> LayerShape:
    fused: Any = attention.qkv_proj
    size = attention.k_proj.weight.shape[0] if fused is None else fused.out_features // 3
    num_heads = size // attention.head_dim
    if attention.kind is LayerKind.SPARSE:
        return LayerShape(num_heads, attention.head_dim, attention.pattern, tuple(attention.global_starts))
    return LayerShape(num_heads, attention.head_dim)


def run_base(model: nn.Module, token_ids: Tensor, positions: Tensor, step: StepAttention) -> Tensor:
    """Last hidden states [N, C] of token_ids and positions, int64 [N] on the model's device."""
    if is_own(model):
        return model.model.run_step(token_ids, positions, step)
    from tirazh.model import foreign_network

    return foreign_network.run_base(model, token_ids, positions, step)


def check_length(model: Any, max_length: int) -> None:
    """Raise CheckpointError where a row of `max_length` tokens would change the rows beside it."""
    longest = longest_exact_sequence(model.config.to_dict())
    if longest is not None and max_length > longest.num_tokens:
        raise CheckpointError(
            f"model_type {model.config.model_type} cannot be run at {max_length} tokens: {longest.reason}"
        )


def logits_head(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return a function from hidden states [R, C] to logits, float32 [R, vocab], rounded to the model's dtype."""
    head: Any
    if is_own(model):
        head = model.lm_head
        if isinstance(head, KernelLinear):
            return head.in_float32
    else:
        from tirazh.model import foreign_network

        head = foreign_network.LogitsHead(model)
    return lambda hidden_RC: head(hidden_RC).float()
