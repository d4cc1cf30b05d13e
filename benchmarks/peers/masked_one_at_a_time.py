"""Run sparse layers as masked dense attention over a full cache, one prompt at a time, as the community's port does.

This is plain torch over the weights, with the mask of the block layout. It shares no attention code with the engine, so
it is also the reference for our alternating model's answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding, gelu, layer_norm, linear, scaled_dot_product_attention

from benchmarks.model_under_test import ModelUnderTest
from benchmarks.peers.peer import Outcome, Peer, Setting, timed
from benchmarks.workloads import Row, Tokens, Workload
from tirazh.model.attention.block_layout import build_layout


class MaskedOneAtATime(Peer):
    family = "masked, one at a time"
    kinds = frozenset({"generate"})
    probe_rows = 2
    mode = "alternating"

    def open(self, under_test: ModelUnderTest, workload: Workload, setting: Setting) -> None:
        dtype = getattr(torch, self.dtype)
        weights = {name: weight.to(under_test.device, dtype) for name, weight in under_test.weights.items()}
        config = under_test.shape.config("alternating")
        layout_HMM = torch.from_numpy(build_layout(config, config.max_position_embeddings).copy())
        size = config.sparse_pattern.block_size
        mask_HTT = layout_HMM.repeat_interleave(size, 1).repeat_interleave(size, 2).tril()
        self.model = _MaskedModel(weights, config, mask_HTT.to(under_test.device))

    @torch.inference_mode()
    def run(self, workload: Workload, setting: Setting) -> Outcome:
        with timed() as watch:
            if workload.kind == "labels":
                scores = [tuple(self._score(row, label) for label in workload.labels) for row in workload.rows]
            else:
                tokens = [self._complete(row) for row in workload.rows]
        if workload.kind == "labels":
            return Outcome(seconds=watch.seconds, scores=scores)
        return Outcome(seconds=watch.seconds, tokens=tokens)

    def _complete(self, row: Row) -> Tokens:
        cache: list[Any] = [None] * self.model.config.num_layers
        tokens = [int(self.model.logits(row.prompt, cache)[-1].argmax())]
        while len(tokens) < row.num_new:
            tokens.append(int(self.model.logits(tokens[-1:], cache)[-1].argmax()))
        return tuple(tokens)

    def _score(self, row: Row, label: Tokens) -> float:
        cache: list[Any] = [None] * self.model.config.num_layers
        logits_TV = self.model.logits((*row.prompt, *label[:-1]), cache, keep=len(label))
        return float(logits_TV.double().log_softmax(-1)[range(len(label)), label].sum())


@dataclass
class _MaskedModel:
    weights: dict[str, Tensor]
    config: Any
    mask_HTT: Tensor

    def logits(self, tokens: Tokens | list[int], cache: list[Any], *, keep: int = 1) -> Tensor:
        """Return float32 logits [keep, V] of the last tokens, and append the tokens' keys and values to the cache."""
        w, past = self.weights, 0 if cache[0] is None else cache[0][0].shape[1]
        ids = torch.tensor(tokens, device=self.mask_HTT.device)
        positions = torch.arange(past, past + len(tokens), device=ids.device)
        x = embedding(ids, w["model.embed_tokens.weight"]) + embedding(positions, w["model.embed_positions.weight"])
        for layer in range(self.config.num_layers):
            name = f"model.layers.{layer}"
            x = x + self._attention(layer, self._norm(x, f"{name}.input_layernorm"), past, cache)
            inner = self._linear(self._norm(x, f"{name}.post_attention_layernorm"), f"{name}.mlp.up_proj")
            x = x + self._linear(gelu(inner, approximate="tanh"), f"{name}.mlp.down_proj")
        return linear(self._norm(x[-keep:], "model.norm"), w["model.embed_tokens.weight"]).float()

    def _attention(self, layer: int, x_TC: Tensor, past: int, cache: list[Any]) -> Tensor:
        name, length = f"model.layers.{layer}.self_attn", len(x_TC)
        heads = (length, self.config.num_attention_heads, self.config.head_dim)
        q, k, v = (self._linear(x_TC, f"{name}.{p}_proj").view(heads).transpose(0, 1) for p in "qkv")
        if cache[layer] is not None:
            k, v = (torch.cat([old, new], dim=1) for old, new in zip(cache[layer], (k, v), strict=True))
        cache[layer] = k, v
        end = past + length
        if self.config.is_sparse_layer(layer):
            mask = self.mask_HTT[:, past:end, :end]
            out = scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=mask[None])[0]
        else:
            # A single new token sees everything; a whole prompt is causal.
            out = scaled_dot_product_attention(q[None], k[None], v[None], is_causal=length > 1)[0]
        return self._linear(out.transpose(0, 1).reshape(length, -1), f"{name}.o_proj")

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return layer_norm(x, weight.shape, weight, bias, self.config.layer_norm_eps)
