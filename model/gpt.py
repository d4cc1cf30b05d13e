"""The ruGPT-3 transformer: GPT-3's architecture with a fixed sparse attention pattern, as a
transformers model.

    hidden = token embedding + position embedding
    for each layer:   hidden += attention(LayerNorm(hidden));   hidden += MLP(LayerNorm(hidden))
    logits = LayerNorm(hidden) @ token embedding^T

Which keys the heads of a layer may see is decided here, once per forward pass. The attention itself
is computed in `attention/full_sequence.py` for whole sequences, or by the batch engine, which is
reached through transformers' attention interface.

The architecture is that of Brown et al. 2020 (arXiv 2005.14165), the pattern that of Child et al.
2019 (arXiv 1904.10509).

Legend: B batch, T tokens, S keys, C channels, H heads on this rank, D head dim.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tirazh.model.attention.block_layout import global_starts
from tirazh.model.attention.full_sequence import window_attention
from tirazh.model.attention.layer_shape import LayerKind
from tirazh.model.attention.reference import visible_keys
from tirazh.model.attention.token_layouts import LayerPattern, TokenLayout
from tirazh.model.gpt_config import RuGPT3Config
from tirazh.model.layers.activation import TanhGELU
from tirazh.model.layers.add_norm import add_norm

__all__ = ["RuGPT3Config", "RuGPT3ForCausalLM", "RuGPT3Model"]


class RuGPT3Attention(nn.Module):
    """Multi-head attention.

    A sparse layer follows the fixed pattern, in which each head has its own global blocks.
    """

    def __init__(self, config: RuGPT3Config, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = True
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        model_config = config.to_model_config()
        self.kind = LayerKind.SPARSE if model_config.is_sparse_layer(layer_idx) else LayerKind.DENSE
        self.pattern = model_config.sparse_pattern
        self.global_starts = global_starts(model_config)  # of this rank's heads, once sharded
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

    def forward(
        self,
        hidden_BTC: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        layout: TokenLayout | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Attend over the tokens and those in `past_key_values`. Returns [B, T, C].

        attention_mask: bool [B, H or 1, T, S], None for whole sequences without padding, and None
        with the keyword `step`, which passes the layer to the batch engine. With a `layout` the rows
        are not whole sequences, and it computes the attention.
        """
        q, k, v = self.project(hidden_BTC)
        if layout is not None:
            pattern = LayerPattern(self.pattern if self.kind is LayerKind.SPARSE else None, self.global_starts)
            out = layout.attend(q, k, v, pattern, self.scaling).transpose(1, 2)
            return cast(Tensor, self.o_proj(out.reshape(*hidden_BTC.shape[:2], -1)))
        if past_key_values is not None:
            k, v = past_key_values.update(k, v, self.layer_idx)
        if self.kind is LayerKind.SPARSE and attention_mask is None and "step" not in kwargs:
            # Whole sequences: the pattern is applied window by window, without a mask.
            out = window_attention(q, k, v, self.pattern, self.global_starts, self.scaling).transpose(1, 2)
        else:
            # transformers' own attention under the mask, or the engine's under its registered name.
            interface = ALL_ATTENTION_FUNCTIONS.get_interface(
                self.config._attn_implementation, ALL_ATTENTION_FUNCTIONS["sdpa"]
            )
            out, _ = interface(self, q, k, v, attention_mask, scaling=self.scaling, **kwargs)
        projected: Tensor = self.o_proj(out.reshape(*hidden_BTC.shape[:2], -1))
        return projected


class RuGPT3MLP(nn.Module):
    """Two linear layers, the inner one four times as wide, with the tanh approximation of GELU
    between them."""

    def __init__(self, config: RuGPT3Config) -> None:
        super().__init__()
        inner = config.intermediate_size or 4 * config.hidden_size
        self.up_proj = nn.Linear(config.hidden_size, inner)
        self.activation: nn.Module = TanhGELU()
        self.down_proj = nn.Linear(inner, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, T, C] to [B, T, C]."""
        out: Tensor = self.down_proj(self.activation(self.up_proj(hidden)))
        return out


class RuGPT3Layer(nn.Module):
    """A pre-LayerNorm block: attention, then the MLP, each added to the residual stream."""

    def __init__(self, config: RuGPT3Config, layer_idx: int) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = RuGPT3Attention(config, layer_idx)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = RuGPT3MLP(config)

    def forward(self, hidden: Tensor, update: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """The residual stream [B, T, C] as two summands: `hidden`, and the `update` of the layer
        before.

        The sum is left to the next LayerNorm, because `add_norm` adds and normalises in one pass.
        Returns the new pair.
        """
        hidden, normed = add_norm(hidden, update, self.input_layernorm)
        hidden, normed = add_norm(hidden, self.self_attn(normed, **kwargs), self.post_attention_layernorm)
        return hidden, self.mlp(normed)


class RuGPT3PreTrainedModel(PreTrainedModel):
    config: RuGPT3Config
    config_class = RuGPT3Config
    base_model_prefix = "model"
    _no_split_modules = ("RuGPT3Layer",)
    _skip_keys_device_placement = ("past_key_values",)
    _supports_sdpa = True
    _supports_attention_backend = True


class RuGPT3Model(RuGPT3PreTrainedModel):
    """The transformer without its logits."""

    def __init__(self, config: RuGPT3Config) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList(RuGPT3Layer(config, i) for i in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Compute the last hidden states [B, T, C] of input_ids, int64 [B, T] (or of inputs_embeds
        [B, T, C]).

        attention_mask [B, S] is 1 where there is a token. Padding may be on either side; positions
        and windows count from each row's own first token. With the keyword `step` (a
        `StepAttention`) the batch engine computes attention; with the keyword `layout` (a
        `TokenLayout`, whose positions are the position_ids) it does, for packed documents.
        """
        hidden = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        num_past = 0 if past_key_values is None else past_key_values.get_seq_length()
        # Without masks: the engine knows what its rows see, and whole sequences without padding
        # need none.
        masks: dict[LayerKind, Tensor | None] = dict.fromkeys(LayerKind)
        if "step" not in kwargs:
            key_positions, is_token = _key_positions(hidden, attention_mask, num_past)
            if position_ids is None:
                position_ids = key_positions[:, num_past:]
            if num_past or (attention_mask is not None and not bool(attention_mask.all())):
                masks = self._masks(key_positions, is_token, num_past)
        update = self.embed_positions(position_ids).expand_as(hidden)
        for layer, attention in zip(self.layers, self.attentions, strict=True):
            mask = masks[attention.kind]
            hidden, update = layer(hidden, update, attention_mask=mask, past_key_values=past_key_values, **kwargs)
        _, normed = add_norm(hidden, update, self.norm)
        return BaseModelOutputWithPast(last_hidden_state=normed, past_key_values=past_key_values)

    @property
    def attentions(self) -> list[RuGPT3Attention]:
        """The attention of every layer."""
        return [cast(RuGPT3Layer, layer).self_attn for layer in self.layers]

    def _masks(self, key_positions: Tensor, is_token: Tensor, num_past: int) -> dict[LayerKind, Tensor | None]:
        """The mask of every kind of layer that the model has, bool [B, H or 1, T, S]."""
        query_positions = key_positions[:, num_past:]
        masks: dict[LayerKind, Tensor | None] = {}
        for kind, attention in {attention.kind: attention for attention in self.attentions}.items():
            if kind is LayerKind.SPARSE:
                starts_H = torch.tensor(attention.global_starts, device=key_positions.device)
                mask = visible_keys(attention.pattern, starts_H, query_positions, key_positions)
            else:
                mask = key_positions[:, None, None, :] <= query_positions[:, None, :, None]
            mask = mask & is_token[:, None, None, :]
            # A padding query sees no key, which would make its softmax NaN. Its row is never read,
            # so it may see all.
            masks[kind] = mask | ~mask.any(-1, keepdim=True)
        return masks


def _key_positions(hidden: Tensor, attention_mask: Tensor | None, num_past: int) -> tuple[Tensor, Tensor]:
    """Positions counted from each row's first token, int64 [B, S], and which columns hold tokens,
    bool [B, S]."""
    if attention_mask is None:
        length = num_past + hidden.shape[1]
        positions = torch.arange(length, device=hidden.device).expand(hidden.shape[0], -1)
        return positions, torch.ones_like(positions, dtype=torch.bool)
    is_token = attention_mask.bool()
    return (is_token.long().cumsum(1) - 1).clamp(min=0), is_token


class RuGPT3ForCausalLM(RuGPT3PreTrainedModel, GenerationMixin):
    """ruGPT-3 with its logits and, if `labels` are given, the training loss."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: RuGPT3Config) -> None:
        super().__init__(config)
        self.model = RuGPT3Model(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Compute the logits [B, T, vocab] of input_ids, int64 [B, T], or of the last
        `logits_to_keep` tokens.

        labels, int64 [B, T], are shifted here and are -100 where no loss is wanted; with them the
        mean loss is returned.
        """
        outputs = self.model(input_ids, **kwargs)
        hidden = outputs.last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(hidden[:, kept] if logits_to_keep is not None else hidden)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=outputs.past_key_values)

    def set_tensor_parallel(self, tp_rank: int, tp_size: int) -> None:
        """Give every attention layer the pattern offsets of its own heads, after its linears were
        sharded."""
        starts = global_starts(self.config.to_model_config())
        local = len(starts) // tp_size
        for attention in self.model.attentions:
            attention.global_starts = starts[tp_rank * local : (tp_rank + 1) * local]


AutoConfig.register("rugpt3", RuGPT3Config)
AutoModelForCausalLM.register(RuGPT3Config, RuGPT3ForCausalLM)
