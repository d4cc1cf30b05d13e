"""The logits of a ruGPT-3 in float32, computed layer by layer, so that the memory holds one layer at a time.

Plain torch, with the attention of the specification; nothing of the engine but the reader of checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear

from tirazh.model.attention.block_layout import global_starts
from tirazh.model.attention.reference import masked_attention, visible_keys
from tirazh.model.checkpoints.directory import Checkpoint, open_checkpoint
from tirazh.model.config import ModelConfig

_VOCABULARY_AT_ONCE = 8192


@torch.inference_mode()
def reference_logits(model: str, prompts: Sequence[Sequence[int]]) -> Tensor:
    """Logits float32 [prompts, vocab] behind the last token of each prompt."""
    checkpoint = open_checkpoint(model)
    config = checkpoint.config
    assert config is not None
    hidden = [_embed(checkpoint, torch.tensor(prompt)) for prompt in prompts]
    for layer in range(config.num_layers):
        read = _Layer(checkpoint, f"model.layers.{layer}.")
        is_sparse = config.is_sparse_layer(layer)
        hidden = [_apply(read, config, rows_TC, is_sparse=is_sparse) for rows_TC in hidden]
    last = torch.stack([rows_TC[-1] for rows_TC in hidden])
    weight, bias = (checkpoint.read(f"model.norm.{part}").float() for part in ("weight", "bias"))
    last = layer_norm(last, last.shape[-1:], weight, bias, config.layer_norm_eps)
    table = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
    starts = range(0, config.vocab_size, _VOCABULARY_AT_ONCE)
    some = (checkpoint.read(table, 0, at, min(at + _VOCABULARY_AT_ONCE, config.vocab_size)) for at in starts)
    return torch.cat([last @ rows.float().T for rows in some], dim=1)


def _embed(checkpoint: Checkpoint, tokens_T: Tensor) -> Tensor:
    words = torch.cat([checkpoint.read("model.embed_tokens.weight", 0, int(t), int(t) + 1).float() for t in tokens_T])
    return words + checkpoint.read("model.embed_positions.weight", 0, 0, len(tokens_T)).float()


class _Layer:
    """The weights of one layer in float32."""

    def __init__(self, checkpoint: Checkpoint, prefix: str) -> None:
        names = [name for name in checkpoint.names() if name.startswith(prefix)]
        self._weights = {name.removeprefix(prefix): checkpoint.read(name).float() for name in names}

    def norm(self, x: Tensor, name: str, eps: float) -> Tensor:
        return layer_norm(x, x.shape[-1:], self._weights[f"{name}.weight"], self._weights[f"{name}.bias"], eps)

    def linear(self, x: Tensor, name: str) -> Tensor:
        return linear(x, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])


def _apply(layer: _Layer, config: ModelConfig, hidden_TC: Tensor, *, is_sparse: bool) -> Tensor:
    normed = layer.norm(hidden_TC, "input_layernorm", config.layer_norm_eps)
    shape = (1, len(hidden_TC), config.num_attention_heads, config.head_dim)
    q, k, v = (layer.linear(normed, f"self_attn.{x}_proj").view(shape).transpose(1, 2) for x in "qkv")
    positions = torch.arange(len(hidden_TC))[None]
    if is_sparse:
        mask = visible_keys(config.sparse_pattern, torch.tensor(global_starts(config)), positions, positions)
    else:
        mask = positions[:, None, :, None] >= positions[:, None, None, :]
    seen = masked_attention(q, k, v, mask, config.head_dim**-0.5).transpose(1, 2).reshape(hidden_TC.shape)
    hidden_TC = hidden_TC + layer.linear(seen, "self_attn.o_proj")
    normed = layer.norm(hidden_TC, "post_attention_layernorm", config.layer_norm_eps)
    inner = gelu(layer.linear(normed, "mlp.up_proj"), approximate="tanh")
    return hidden_TC + layer.linear(inner, "mlp.down_proj")
