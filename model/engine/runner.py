"""Executes planned steps on one rank: the model, its KV cache, and logits where they are read.

Knows nothing of requests, text or scheduling; `engine/batch_engine.py` plans, every rank of a replica runs the same
steps here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tirazh.model.attention.gpu import DECODE_IDLE, GpuDecode, GpuPrefill, PrefillTables, can_launch
from tirazh.model.attention.kv_cache import KVCache, LayerShape, PrefixCache
from tirazh.model.attention.step_attention import ATTENTION_NAME, StepAttention
from tirazh.model.engine.sequences import StepBuilder
from tirazh.model.engine.step_graph import StepGraphs
from tirazh.model.layers.packed_linear import rows_are_independent
from tirazh.model.step import PLACEHOLDER, FreshSlot, Phase, Step, chunk_length
from tirazh.model.transfer import to_device

_PREFILL_TILE = 128
LayerAttention = StepAttention | GpuDecode | GpuPrefill


class ModelRunner:
    """One rank's model and cache. `num_slots` sequences of at most `max_length` tokens."""

    def __init__(
        self,
        model: nn.Module,
        *,
        num_slots: int,
        max_length: int,
        logit_rows: int = 64,
        prefill_logit_rows: int | None = None,
        uses_cuda_graphs: bool = False,
        overlaps_steps: bool = False,
    ) -> None:
        """`logit_rows`: rows of the product that gives logits, `prefill_logit_rows` of that in a prefill (None: too).
        Part of a job's arithmetic, as the steps' rows are; where a row's bits do not depend on the number of rows, no
        step is padded. `uses_cuda_graphs`: a step is one CUDA graph; for a model on a GPU that is by itself (no tensor
        parallelism) and whose heads the GPU's kernels take. `overlaps_steps`: tokens stay on the device for the next step,
        and are read on the CPU while it runs; for the same models."""
        self.model = model.eval()
        self.model.set_attn_implementation(ATTENTION_NAME)  # type: ignore[operator]
        weight = next(model.parameters())
        self.dtype, self.device = weight.dtype, weight.device
        self.num_slots, self.max_length = num_slots, max_length
        self._is_padded = uses_cuda_graphs or not rows_are_independent(model)
        self._logit_rows = {"decode": logit_rows, "prefill": logit_rows}
        if self._is_padded and prefill_logit_rows:
            self._logit_rows["prefill"] = prefill_logit_rows
        self.shapes = layer_shapes(model)
        self.cache = self._new_cache(num_slots, max_length, prefix=None)
        self.overlaps_steps = overlaps_steps
        self._last_tokens_S = torch.zeros(num_slots, dtype=torch.int64, device=self.device)
        self._uses_cuda_graphs = uses_cuda_graphs
        self._graphs: StepGraphs | None = None

    @property
    def window_size(self) -> int:
        """Tokens of a window of the sparse pattern; prompts are prefilled in pieces that end where windows do."""
        return self.cache.window_size or _PREFILL_TILE

    def set_prefix(self, token_ids: tuple[int, ...], prefill_rows: int) -> None:
        """Compute the job's shared prefix once and keep it for every slot."""
        if not token_ids:
            return
        cache, prefix = self.cache, self._new_cache(1, len(token_ids), prefix=None)
        self.cache, self._graphs = prefix, None  # what was recorded reads another prefix, or none
        uses_cuda_graphs, self._uses_cuda_graphs = self._uses_cuda_graphs, False
        fresh: tuple[FreshSlot, ...] = (FreshSlot(0, uses_prefix=False),)
        start = 0
        while start < len(token_ids):
            plan = StepBuilder("prefill", prefill_rows)
            while start < len(token_ids):
                tokens = token_ids[
                    start : start + chunk_length(start, window=self.window_size, max_length=prefill_rows)
                ]
                if not plan.has_room(len(tokens)):
                    break
                plan.add(0, tokens, start)
                start += len(tokens)
            self.execute(plan.build(fresh))
            fresh = ()
        self.cache = cache
        self.cache.prefix = prefix.to_prefix()
        self._uses_cuda_graphs = uses_cuda_graphs

    @torch.inference_mode()
    def execute(self, step: Step) -> Tensor:
        """Run one step. Returns float32 logits [R, vocab] of `step.logit_rows`, on the model's device."""
        if not self._is_padded:
            step = step.without_padding()
        attention = StepAttention(step, self.cache)
        token_ids, positions = torch.from_numpy(step.token_ids), torch.from_numpy(step.positions)
        if self._uses_cuda_graphs:
            hidden_NC = self._replay(step.phase, token_ids, positions, attention)
        else:
            token_ids, positions = to_device(token_ids, self.device), to_device(positions, self.device)
            if self.overlaps_steps and step.phase == "decode":
                token_ids = self._fill_placeholders(token_ids, to_device(attention.slots_of_rows(), self.device))
            hidden_NC = self._forward(token_ids, positions, attention)
        return self._logits(hidden_NC, step.logit_rows, self._logit_rows[step.phase])

    def store_tokens(self, slots: Sequence[int], tokens: Tensor) -> None:
        """Keep the newest tokens of some slots, int64 [R] on the model's device, for rows that are `PLACEHOLDER`."""
        self._last_tokens_S[to_device(torch.tensor(slots), self.device)] = tokens

    def _fill_placeholders(self, token_ids_N: Tensor, slots_N: Tensor) -> Tensor:
        """Tokens with those that only the device knows. A row without a token (idle, or of a sequence whose logits were
        no numbers) gets any."""
        kept_N = self._last_tokens_S[slots_N.clamp(min=0)]
        return torch.where(token_ids_N == PLACEHOLDER, kept_N, token_ids_N).clamp(min=0)

    def _forward(self, token_ids: Tensor, positions: Tensor, attention: LayerAttention) -> Tensor:
        """Last hidden states [N, C] of token_ids and positions, int64 [N]."""
        base = getattr(self.model, str(self.model.base_model_prefix))
        out = base(input_ids=token_ids[None], position_ids=positions[None], use_cache=False, step=attention)
        return out.last_hidden_state[0]

    def _replay(self, phase: Phase, token_ids: Tensor, positions: Tensor, attention: StepAttention) -> Tensor:
        """The same by a CUDA graph, which is recorded when it is the first step of its shape."""
        if self._graphs is None:
            self._graphs = StepGraphs()
        forward: Callable[..., Tensor] = self._decode_on_gpu if phase == "decode" else self._prefill_on_gpu
        if phase == "decode":
            parts = [attention.decode_table()]
            idle = [torch.tensor(DECODE_IDLE, dtype=torch.int32).repeat(len(token_ids), 1)]
        else:
            tables = attention.prefill_tables()
            parts = [part for is_sparse in sorted(tables) for part in tables[is_sparse].padded().parts]
            idle = [torch.zeros_like(part) for part in parts]
        values = [token_ids, positions, *parts]
        return self._graphs.run(forward, values, [torch.zeros_like(token_ids), torch.zeros_like(positions), *idle])

    def _decode_on_gpu(self, token_ids: Tensor, positions: Tensor, table: Tensor) -> Tensor:
        token_ids = self._fill_placeholders(token_ids, table[:, 0])
        return self._forward(token_ids, positions, GpuDecode(self.cache, table))

    def _prefill_on_gpu(self, token_ids: Tensor, positions: Tensor, *parts: Tensor) -> Tensor:
        kinds = sorted({cache.shape.pattern is not None for cache in self.cache.layers})
        size = len(parts) // len(kinds)
        tables = {kind: PrefillTables(*parts[at * size : (at + 1) * size]) for at, kind in enumerate(kinds)}
        return self._forward(token_ids, positions, GpuPrefill(self.cache, tables))

    def _logits(self, hidden_NC: Tensor, rows: NDArray[np.int64], at_a_time: int) -> Tensor:
        """Logits of some rows, so many at a time; always as many where the shape of a product is part of its bits."""
        head = self.model.get_output_embeddings()  # type: ignore[operator]
        parts = []
        for first in range(0, len(rows), at_a_time):
            chosen = rows[first : first + at_a_time]
            padded = _padded(chosen, at_a_time) if self._is_padded else chosen
            index = to_device(torch.from_numpy(padded), self.device)
            parts.append(head(hidden_NC[index])[: len(chosen)].float())
        if len(parts) == 1:
            return parts[0]
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


def can_capture_graphs(model: nn.Module) -> bool:
    """Whether steps of a whole model can be one CUDA graph each: it is on a GPU, whose kernels take all its heads."""
    weight = next(model.parameters())
    return weight.is_cuda and all(can_launch(weight.new_empty(1, shape.head_dim)) for shape in layer_shapes(model))


def hidden_size(model: nn.Module) -> int:
    """Channels of a transformers causal LM."""
    return int(model.get_input_embeddings().embedding_dim)  # type: ignore[operator]


def slots_that_fit(model: nn.Module, max_length: int) -> int:
    """How many sequences of `max_length` tokens a model's GPU has room for now, at least one. The cache is taken whole
    there; a tenth of the memory stays free for a step's own tensors. On a CPU memory is taken as sequences grow."""
    weight = next(model.parameters())
    if not weight.is_cuda:
        return sys.maxsize
    numbers = sum(2 * s.capacity(max_length) * s.num_heads * s.head_dim for s in layer_shapes(model))
    return max(1, int(0.9 * torch.cuda.mem_get_info(weight.device)[0]) // (numbers * weight.element_size()))


def layer_shapes(model: nn.Module) -> list[LayerShape]:
    """The cache shape of every attention layer of a transformers causal LM, heads counted on this rank."""
    kinds = ("k_proj", "qkv_proj")
    attentions: list[Any] = [
        m for m in model.modules() if hasattr(m, "layer_idx") and any(hasattr(m, kind) for kind in kinds)
    ]
    return [_layer_shape(attention) for attention in sorted(attentions, key=lambda a: int(a.layer_idx))]


def _layer_shape(attention: Any) -> LayerShape:
    fused = getattr(attention, "qkv_proj", None)
    size = attention.k_proj.weight.shape[0] if fused is None else fused.out_features // 3
    num_heads = size // attention.head_dim
    if getattr(attention, "is_sparse", False):
        return LayerShape(num_heads, attention.head_dim, attention.pattern, tuple(attention.global_starts))
    return LayerShape(num_heads, attention.head_dim)


def _padded(values: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    out = np.zeros(length, dtype=np.int64)
    out[: len(values)] = values
    return out
