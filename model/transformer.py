"""The ruGPT-3 transformer: GPT-3's architecture with a fixed sparse attention pattern.

    hidden = token embedding + position embedding
    for each layer:   hidden += attention(LayerNorm(hidden));   hidden += MLP(LayerNorm(hidden))
    logits = LayerNorm(hidden) @ token embedding^T

A rank of inference runs this module as it is, without transformers, whose import takes longer than the rest of a
rank's start. `gpt.py` makes the same layers a model of transformers, for training, export and `generate`. How the
queries, keys and values of a layer become its output is for the caller to say (`Attend`): whole sequences are
computed here and in `attention/full_sequence.py`, the rows of a step by the batch engine.

The architecture is that of Brown et al. 2020 (arXiv 2005.14165), the pattern that of Child et al.
2019 (arXiv 1904.10509).

Legend: B batch, T tokens, C channels, H heads on this rank, D head dim, N rows of a step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from tirazh.model.attention.backends.interface import StepAttention
from tirazh.model.attention.block_layout import global_starts
from tirazh.model.attention.full_sequence import window_attention
from tirazh.model.attention.layer_shape import LayerKind
from tirazh.model.config import ModelConfig
from tirazh.model.layers.activation import TanhGELU
from tirazh.model.layers.add_norm import add_norm


class RuGPT3Attention(nn.Module):
    """Multi-head attention.

    A sparse layer follows the fixed pattern, in which each head has its own global blocks.
    """

    def __init__(self, config: ModelConfig, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.is_causal = True  # transformers' attention functions read it
        self.head_dim = config.head_dim
        self.scaling = self.head_dim**-0.5
        self.kind = LayerKind.SPARSE if config.is_sparse_layer(layer_idx) else LayerKind.DENSE
        self.pattern = config.sparse_pattern
        self.global_starts = global_starts(config)  # of this rank's heads, once sharded
        size = config.hidden_size
        self.q_proj = nn.Linear(size, size)
        self.k_proj = nn.Linear(size, size)
        self.v_proj = nn.Linear(size, size)
        self.o_proj = nn.Linear(size, size)
        self.qkv_proj: nn.Module | None = None

    def fuse_projections(self) -> None:
        """Replace the three projections by one, for inference: one wide matmul of few rows is
        faster than three."""
        if self.qkv_proj is not None:
            return
        linears = [self.q_proj, self.k_proj, self.v_proj]
        if all(type(linear) is nn.Linear for linear in linears):
            fused = nn.Linear(self.q_proj.in_features, 3 * self.q_proj.out_features, device="meta")
            fused.weight = nn.Parameter(torch.cat([x.weight.detach() for x in linears]), requires_grad=False)
            fused.bias = nn.Parameter(torch.cat([x.bias.detach() for x in linears]), requires_grad=False)
            self.qkv_proj = fused
            del self.q_proj, self.k_proj, self.v_proj

    def project(self, hidden_BTC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, [B, H, T, D] each."""
        heads = (*hidden_BTC.shape[:2], -1, self.head_dim)
        if self.qkv_proj is not None:
            q, k, v = (x.view(heads).transpose(1, 2) for x in self.qkv_proj(hidden_BTC).chunk(3, dim=-1))
        else:
            q, k, v = (proj(hidden_BTC).view(heads).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj))
        return q, k, v

    def forward(self, hidden_BTC: Tensor, attend: Attend) -> Tensor:
        """The output of the layer's attention, [B, T, C], where `attend` computes it of queries, keys and values."""
        out_BTHD = attend(self, *self.project(hidden_BTC))
        projected: Tensor = self.o_proj(out_BTHD.reshape(*hidden_BTC.shape[:2], -1))
        return projected


# The attention of a layer: queries, keys and values [B, H, T, D] to an output [B, T, H, D].
Attend = Callable[[RuGPT3Attention, Tensor, Tensor, Tensor], Tensor]


def attend_whole(attention: RuGPT3Attention, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor) -> Tensor:
    """The attention of whole sequences without padding, [B, T, H, D]."""
    if attention.kind is LayerKind.SPARSE:  # window by window, without a mask
        out = window_attention(q_BHTD, k_BHTD, v_BHTD, attention.pattern, attention.global_starts, attention.scaling)
    else:
        out = scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, is_causal=True, scale=attention.scaling)
    return out.transpose(1, 2)


class RuGPT3MLP(nn.Module):
    """Two linear layers, the inner one four times as wide, with the tanh approximation of GELU
    between them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, 4 * config.hidden_size)
        self.activation: nn.Module = TanhGELU()
        self.down_proj = nn.Linear(4 * config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, T, C] to [B, T, C]."""
        out: Tensor = self.down_proj(self.activation(self.up_proj(hidden)))
        return out


class RuGPT3Layer(nn.Module):
    """A pre-LayerNorm block: attention, then the MLP, each added to the residual stream."""

    def __init__(self, config: ModelConfig, layer_idx: int) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = RuGPT3Attention(config, layer_idx)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = RuGPT3MLP(config)

    def forward(self, hidden: Tensor, update: Tensor, attend: Attend) -> tuple[Tensor, Tensor]:
        """The residual stream [B, T, C] as two summands: `hidden`, and the `update` of the layer
        before.

        The sum is left to the next LayerNorm, because `add_norm` adds and normalises in one pass.
        Returns the new pair.
        """
        hidden, normed = add_norm(hidden, update, self.input_layernorm)
        hidden, normed = add_norm(hidden, self.self_attn(normed, attend), self.post_attention_layernorm)
        return hidden, self.mlp(normed)


class Transformer(nn.Module):
    """The transformer without its logits: embeddings, layers and the last LayerNorm, once `add_layers` has made them.

    `__init__` takes no config, so that a class may inherit from this one and from transformers' base class.
    """

    embed_tokens: nn.Embedding
    embed_positions: nn.Embedding
    layers: nn.ModuleList
    norm: nn.LayerNorm

    def add_layers(self, config: ModelConfig) -> None:
        """Make the embeddings and the layers, with weights as torch initialises them."""
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList(RuGPT3Layer(config, i) for i in range(config.num_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    @property
    def attentions(self) -> list[RuGPT3Attention]:
        """The attention of every layer."""
        return [cast(RuGPT3Layer, layer).self_attn for layer in self.layers]

    def hidden_states(self, hidden_BTC: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Last hidden states [B, T, C] of embedded tokens at `positions`, int64 [B, T]."""
        hidden, update = hidden_BTC, self.embed_positions(positions).expand_as(hidden_BTC)
        for layer in self.layers:
            hidden, update = layer(hidden, update, attend)
        _, normed = add_norm(hidden, update, self.norm)
        return normed

    def run_step(self, token_ids_N: Tensor, positions_N: Tensor, step: StepAttention) -> Tensor:
        """Last hidden states [N, C] of the rows of a step, whose token ids and positions are int64 [N]."""

        def attend(attention: RuGPT3Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q_NHD, k_NHD, v_NHD = (x[0].transpose(0, 1) for x in (q, k, v))
            return step.attend(attention.layer_idx, q_NHD, k_NHD, v_NHD, attention.scaling)[None]

        return self.hidden_states(self.embed_tokens(token_ids_N[None]), positions_N[None], attend)[0]


class LanguageModel(nn.Module):
    """A `Transformer` and the layer that makes its logits; what `gpt.py` and a rank's model have in common."""

    model: Transformer
    lm_head: nn.Linear

    def set_tensor_parallel(self, tp_rank: int, tp_size: int) -> None:
        """Leave every attention layer the pattern offsets of its own heads, once, after its linears were
        sharded."""
        for attention in self.model.attentions:
            starts = attention.global_starts
            local = len(starts) // tp_size
            attention.global_starts = starts[tp_rank * local : (tp_rank + 1) * local]


class Logits(NamedTuple):
    """What a forward pass returns: logits [B, T, vocab]."""

    logits: Tensor


class PlainModel(Transformer):
    """The transformer of a `PlainLanguageModel`. DeepSpeed shards classes alone whose names end in "Model"."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config  # DeepSpeed reads the number of heads there
        self.add_layers(config)

    @property
    def device(self) -> torch.device:
        """The device of the weights. DeepSpeed gives a model memory only where this says "meta"."""
        return self.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.embed_tokens.weight.dtype

    def forward(self, input_ids: Tensor) -> Tensor:
        """Last hidden states [B, T, C] of whole sequences, int64 [B, T]."""
        positions = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        return self.hidden_states(self.embed_tokens(input_ids), positions, attend_whole)


class PlainLanguageModel(LanguageModel):
    """A ruGPT-3 without transformers, for inference. Its weights have the names of `RuGPT3ForCausalLM`'s."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = PlainModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    @classmethod
    def without_memory(cls, config: ModelConfig) -> PlainLanguageModel:
        """A model on the meta device: shapes alone, which a checkpoint fills."""
        with torch.device("meta"), _NoInitialValues():
            return cls(config)

    def forward(self, input_ids: Tensor) -> Logits:
        """Compute the logits [B, T, vocab] of whole sequences without padding, int64 [B, T]."""
        return Logits(self.lm_head(self.model(input_ids)))


class _NoInitialValues(TorchFunctionMode):
    """Leaves out what `torch.nn.init` does: on the meta device it has no effect, but imports torch's compiler."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)
