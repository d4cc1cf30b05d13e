"""Executes planned steps on one rank: the model, its KV cache, and logits where they are read.

Knows nothing of requests, text or scheduling; `engine.py` plans, every rank of a replica runs the same steps here.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from model.cached_attention import ATTENTION_NAME, StepAttention
from model.kv_cache import KVCache, LayerShape, PrefixCache
from model.step import FreshSlot, Segment, Step

_PREFILL_TILE = 128


class ModelRunner:
    """One rank's model and cache. `num_slots` sequences of at most `max_length` tokens."""

    def __init__(self, model: nn.Module, *, num_slots: int, max_length: int, logit_rows: int = 32) -> None:
        self.model = model.eval()
        self.model.set_attn_implementation(ATTENTION_NAME)  # type: ignore[operator]
        weight = next(model.parameters())
        self.dtype, self.device = weight.dtype, weight.device
        self.num_slots, self.max_length = num_slots, max_length
        self.logit_rows = logit_rows
        self.shapes = layer_shapes(model)
        self.cache = self._new_cache(num_slots, max_length, prefix=None)

    @property
    def window_size(self) -> int:
        """Tokens of a window of the sparse pattern; prompts are prefilled in pieces that end where windows do."""
        return self.cache.window_size or _PREFILL_TILE

    def set_prefix(self, token_ids: tuple[int, ...], prefill_rows: int) -> None:
        """Compute the job's shared prefix once and keep it for every slot."""
        if not token_ids:
            return
        cache, prefix = self.cache, self._new_cache(1, len(token_ids), prefix=None)
        self.cache = prefix
        fresh: tuple[FreshSlot, ...] = (FreshSlot(0, uses_prefix=False),)
        for start in range(0, len(token_ids), min(self.window_size, prefill_rows)):
            tokens = token_ids[start : start + min(self.window_size, prefill_rows)]
            step = Step(
                phase="prefill",
                token_ids=_padded(np.array(tokens), prefill_rows),
                positions=_padded(np.arange(start, start + len(tokens)), prefill_rows),
                segments=(Segment(0, 0, start, len(tokens)),),
                logit_rows=np.empty(0, np.int64),
                fresh_slots=fresh,
            )
            self.execute(step)
            fresh = ()
        self.cache = cache
        self.cache.prefix = prefix.to_prefix()

    @torch.inference_mode()
    def execute(self, step: Step) -> Tensor:
        """Run one step. Returns float32 logits [R, vocab] of `step.logit_rows`, on the model's device."""
        attention = StepAttention(step, self.cache)
        base = getattr(self.model, self.model.base_model_prefix)  # type: ignore[arg-type]
        hidden_NC = base(
            input_ids=torch.from_numpy(step.token_ids).to(self.device)[None],
            position_ids=torch.from_numpy(step.positions).to(self.device)[None],
            use_cache=False,
            step=attention,
        ).last_hidden_state[0]
        return self._logits(hidden_NC, step.logit_rows)

    def _logits(self, hidden_NC: Tensor, rows: np.ndarray) -> Tensor:
        """Logits of some rows, always `logit_rows` at a time: the shape of a product is part of its bits."""
        head = self.model.get_output_embeddings()  # type: ignore[operator]
        parts = []
        for first in range(0, len(rows), self.logit_rows):
            chosen = rows[first : first + self.logit_rows]
            index = torch.from_numpy(_padded(chosen, self.logit_rows)).to(self.device)
            parts.append(head(hidden_NC[index])[: len(chosen)].float())
        return torch.cat(parts) if parts else hidden_NC.new_empty((0, 0), dtype=torch.float32)

    def _new_cache(self, num_slots: int, max_length: int, *, prefix: PrefixCache | None) -> KVCache:
        return KVCache(
            self.shapes,
            num_slots=num_slots,
            max_length=max_length,
            dtype=self.dtype,
            device=self.device,
            prefix=prefix,
        )


def layer_shapes(model: nn.Module) -> list[LayerShape]:
    """The cache shape of every attention layer of a transformers causal LM, heads counted on this rank."""
    shapes = {}
    for module in model.modules():
        if not hasattr(module, "layer_idx") or not hasattr(module, "k_proj"):
            continue
        head_dim = int(module.head_dim)  # type: ignore[arg-type]
        num_heads = module.k_proj.weight.shape[0] // head_dim  # type: ignore[union-attr,operator]
        is_sparse = bool(getattr(module, "is_sparse", False))
        shapes[int(module.layer_idx)] = LayerShape(  # type: ignore[arg-type]
            num_heads,
            head_dim,
            module.pattern if is_sparse else None,  # type: ignore[arg-type]
            tuple(module.global_starts) if is_sparse else None,  # type: ignore[arg-type]
        )
    return [shapes[layer] for layer in sorted(shapes)]


def _padded(values: np.ndarray, length: int) -> np.ndarray:
    out = np.zeros(length, dtype=np.int64)
    out[: len(values)] = values
    return out
