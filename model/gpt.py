"""The ruGPT-3 transformer (`transformer.py`) as a transformers model: registered, saved, trained and generated from.

Which keys the heads of a layer may see is decided here, once per forward pass: rows may be padded, and may continue a
cache. Whole sequences need no mask. The batch engine runs the same layers by `Transformer.run_step`.

Legend: B batch, T tokens, S keys, C channels, H heads on this rank, D head dim.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache, GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tirazh.model.attention.layer_shape import LayerKind
from tirazh.model.attention.reference import visible_keys
from tirazh.model.attention.token_layouts import LayerPattern, TokenLayout
from tirazh.model.gpt_config import RuGPT3Config
from tirazh.model.transformer import Attend, LanguageModel, RuGPT3Attention, Transformer, attend_whole

__all__ = ["RuGPT3Config", "RuGPT3ForCausalLM", "RuGPT3Model"]


class RuGPT3PreTrainedModel(PreTrainedModel):
    config: RuGPT3Config
    config_class = RuGPT3Config
    base_model_prefix = "model"
    _no_split_modules = ("RuGPT3Layer",)
    _skip_keys_device_placement = ("past_key_values",)
    _supports_sdpa = True
    _supports_attention_backend = True


class RuGPT3Model(RuGPT3PreTrainedModel, Transformer):
    """The transformer without its logits."""

    def __init__(self, config: RuGPT3Config) -> None:
        super().__init__(config)
        self.add_layers(config.to_model_config())
        self.post_init()  # type: ignore[operator]

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        layout: TokenLayout | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Compute the last hidden states [B, T, C] of input_ids, int64 [B, T] (or of inputs_embeds
        [B, T, C]).

        attention_mask [B, S] is 1 where there is a token. Padding may be on either side; positions
        and windows count from each row's own first token. A `layout`, whose positions are the
        position_ids, computes the attention of packed documents.
        """
        hidden = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        num_past = 0 if past_key_values is None else past_key_values.get_seq_length()
        masks: dict[LayerKind, Tensor | None] = dict.fromkeys(LayerKind)
        key_positions, is_token = _key_positions(hidden, attention_mask, num_past)
        if position_ids is None:
            position_ids = key_positions[:, num_past:]
        if num_past or (attention_mask is not None and not bool(attention_mask.all())):
            masks = self._masks(key_positions, is_token, num_past)
        attend = _attend_in(layout) if layout is not None else self._attend_under(masks, past_key_values, kwargs)
        normed = self.hidden_states(hidden, position_ids, attend)
        return BaseModelOutputWithPast(last_hidden_state=normed, past_key_values=past_key_values)

    def _attend_under(
        self, masks: dict[LayerKind, Tensor | None], past_key_values: Cache | None, keywords: dict[str, Any]
    ) -> Attend:
        """Attention over the tokens and those in `past_key_values`, under the mask of the layer's kind: bool
        [B, H or 1, T, S], or None for whole sequences without padding. The `keywords` go to transformers' attention."""
        interface = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, ALL_ATTENTION_FUNCTIONS["sdpa"]
        )

        def attend(attention: RuGPT3Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            mask = masks[attention.kind]
            if past_key_values is not None:
                k, v = past_key_values.update(k, v, attention.layer_idx)
            if attention.kind is LayerKind.SPARSE and mask is None:
                return attend_whole(attention, q, k, v)
            out: Tensor = interface(attention, q, k, v, mask, scaling=attention.scaling, **keywords)[0]
            return out

        return attend

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


def _attend_in(layout: TokenLayout) -> Attend:
    """Attention among the tokens of a layout."""

    def attend(attention: RuGPT3Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        pattern = attention.pattern if attention.kind is LayerKind.SPARSE else None
        layer = LayerPattern(pattern, attention.global_starts)
        return layout.attend(q, k, v, layer, attention.scaling).transpose(1, 2)

    return attend


def _key_positions(hidden: Tensor, attention_mask: Tensor | None, num_past: int) -> tuple[Tensor, Tensor]:
    """Positions counted from each row's first token, int64 [B, S], and which columns hold tokens,
    bool [B, S]."""
    if attention_mask is None:
        length = num_past + hidden.shape[1]
        positions = torch.arange(length, device=hidden.device).expand(hidden.shape[0], -1)
        return positions, torch.ones_like(positions, dtype=torch.bool)
    is_token = attention_mask.bool()
    return (is_token.long().cumsum(1) - 1).clamp(min=0), is_token


class RuGPT3ForCausalLM(RuGPT3PreTrainedModel, LanguageModel, GenerationMixin):
    """ruGPT-3 with its logits and, if `labels` are given, the training loss."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: RuGPT3Config) -> None:
        super().__init__(config)
        self.model = RuGPT3Model(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()  # type: ignore[operator]

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
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size)  # type: ignore[operator]
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=outputs.past_key_values)


AutoConfig.register("rugpt3", RuGPT3Config)
AutoModelForCausalLM.register(RuGPT3Config, RuGPT3ForCausalLM)
