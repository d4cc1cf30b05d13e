"""Executes steps on one rank: the model's forward pass over its KV cache, and logits for the rows
that are read.

Every rank of a replica runs the same steps here. Knows nothing of requests, text or scheduling.
Legend: N rows of the step, R rows whose logits are read, C channels.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tirazh.model.attention.backends.choose import build_attention, choose_backend, head_types
from tirazh.model.attention.backends.interface import CapturableBackend, HeadType, PreparedAttention, StepAttention
from tirazh.model.attention.kv_cache import KVCache, PrefixCache, slot_bytes
from tirazh.model.attention.layer_shape import NO_RULES, LayerShape
from tirazh.model.attention.step_layout import StepLayout, append_step
from tirazh.model.engine.layer_calls import LayerCalls, can_prepare
from tirazh.model.engine.network import (
    check_length,
    hidden_size,
    is_own,
    layer_shapes,
    logits_head,
    logits_layer,
    prepare,
    run_base,
)
from tirazh.model.engine.sequences import StepBuilder
from tirazh.model.engine.sliced_logits import SlicedLogits, rows_at_once
from tirazh.model.engine.step_graph import StepGraphs
from tirazh.model.layers.packed_linear import rows_are_independent
from tirazh.model.step import PLACEHOLDER, FreshSlot, Phase, Step, chunk_length
from tirazh.model.transfer import to_device

logger = logging.getLogger(__name__)

__all__ = ["ModelRunner", "can_capture_graphs", "hidden_size", "layer_shapes", "slots_that_fit"]

_DENSE_CHUNK = 128  # longest prefill chunk, in tokens, of a model without windows


class ModelRunner:
    """One rank's model and cache. `num_slots` sequences of at most `max_length` tokens.

    `on_progress` is called after every layer (where kernels of ours run all of them: every 50 milliseconds) and every
    matmul of logits, unless a CUDA graph runs them.
    `share_tokens` is for tensor parallelism with overlap scheduling: it gives a tensor on the device rank 0's values
    on every rank (a broadcast). Only rank 0 samples, so it is called before each step that has a `PLACEHOLDER`.
    `agree` says whether a value is true on every rank of the replica, which all call it together.
    """

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
        """Allocate the cache and prepare the model.

        `logit_rows`: rows of the matmul that gives logits; `prefill_logit_rows`: the same in a
        prefill step (None: as many). Like the rows of a step they are part of a job's arithmetic.
        Where a row's bits do not depend on the number of rows, nothing is padded.
        `uses_cuda_graphs`: run every step as one CUDA graph, until a capture fails on some rank. For models for
        which `can_capture_graphs` on every rank.
        `overlaps_steps`: sampled tokens stay on the device for the next step, and the CPU reads
        them while it runs (overlap scheduling). A job switches both on together; tests use
        `overlaps_steps` alone, which works on a CPU.
        Raises CheckpointError for a model that cannot be run exactly, or not at `max_length`.
        """
        check_length(model, max_length)
        self.model = model.eval()
        prepare(self.model)
        weight = next(model.parameters())
        self.dtype, self.device = weight.dtype, weight.device
        self.num_slots, self.max_length = num_slots, max_length
        self._is_padded = uses_cuda_graphs or not rows_are_independent(model)
        self._logit_rows = {"decode": logit_rows, "prefill": logit_rows}
        if self._is_padded and prefill_logit_rows:
            self._logit_rows["prefill"] = prefill_logit_rows
        self.shapes = [replace(shape, rules=shape.rules.within(max_length)) for shape in layer_shapes(model)]
        self._head = logits_head(model)
        self._layer_calls = LayerCalls(model.model) if is_own(model) and can_prepare(model.model) else None
        self.cache = self._new_cache(num_slots, max_length)
        self.overlaps_steps = overlaps_steps
        self.hidden_states = torch.empty(0)  # float32 [rows, C] of the last step's `hidden_rows`
        self._last_tokens_S = torch.zeros(num_slots, dtype=torch.int64, device=self.device)
        self._uses_cuda_graphs = uses_cuda_graphs
        self._graphs: StepGraphs | None = None
        self.on_progress: Callable[[], object] = lambda: None
        self.agree: Callable[[bool], bool] = bool
        self.share_tokens: Callable[[Tensor], object] = lambda tokens_S: None

    @property
    def vocab_size(self) -> int:
        """Columns of the logits."""
        head = logits_layer(self.model)
        return int(getattr(head, "out_features", 0) or head.weight.shape[0])

    @property
    def window_size(self) -> int:
        """Tokens of a window of the sparse pattern; prompts are prefilled in chunks that end where
        windows do."""
        return self.cache.window_size or _DENSE_CHUNK

    def set_prefix(self, token_ids: tuple[int, ...], prefill_rows: int) -> None:
        """Compute a job's shared prefix once and keep it for every slot, in place of the one that is
        held. No slot may be in use.

        It is computed in a cache of its own with a single slot, in steps of `prefill_rows` rows,
        without CUDA graphs. Graphs that were captured read a prefix at one address and of one length. So
        a prefix of that length takes the place of the other; for any other one they are captured again.
        """
        held, length = self.cache.prefix, 0 if self.cache.prefix is None else self.cache.prefix.length
        if self._graphs is not None and length != len(token_ids):
            self._wait_for_device()  # it may still run a graph
            self._graphs = None
        if self._graphs is None:
            held = None
        self.cache.replace_prefix(held)
        if not token_ids:
            return
        prefix = self._compute_prefix(token_ids, prefill_rows)
        if held is None:
            self.cache.replace_prefix(prefix)
        else:
            held.copy_from(prefix)

    def _compute_prefix(self, token_ids: tuple[int, ...], prefill_rows: int) -> PrefixCache:
        cache = self._new_cache(1, len(token_ids))
        with torch.inference_mode():
            for step in _prefix_steps(token_ids, window=self.window_size, num_rows=prefill_rows):
                self._forward_eagerly(step if self._is_padded else step.without_padding(), cache)
        return cache.to_prefix()  # views that may be written later, as those of inference mode may not

    def _wait_for_device(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def execute(self, step: Step) -> Tensor | SlicedLogits:
        """Run one step. Returns float32 logits [R, vocab] of `step.logit_rows`, on the model's
        device; of many rows such that must be read before the next step."""
        if step.new_prefix is not None:
            self.set_prefix(step.new_prefix.token_ids, step.new_prefix.prefill_rows)
        return self._execute(step, self.cache)

    def warm_up(
        self,
        build_steps: Callable[[KVCache], Iterable[Step]],
        *,
        num_slots: int,
        max_length: int | None = None,
        read: Callable[[Tensor], object] | None = None,
    ) -> None:
        """Run steps that belong to no job, and leave the cache as it was before.

        `build_steps` yields the steps, given the cache in which they run: one of its own with
        `num_slots` slots of `max_length` tokens (default: one more than a window), or where CUDA
        graphs are captured, which hold the addresses of the cache, the runner's. In that case no
        sequence may be in it. `read` gets the logits of each step.
        """
        cache = self.cache
        if not self._uses_cuda_graphs:
            cache = self._new_cache(num_slots, max_length or min(self.max_length, self.window_size + 1))
            cache.prefix = self.cache.prefix
        used: set[int] = set()
        for step in build_steps(cache):
            logits = self._execute(step, cache)
            if read is not None:
                read(logits if isinstance(logits, Tensor) else torch.cat([some for _, some in logits.slices()]))
            used |= {segment.slot for segment in step.segments}
        if cache is self.cache:
            cache.start([FreshSlot(slot, uses_prefix=False, must_zero=True) for slot in sorted(used)])

    @torch.inference_mode()
    def run_apart(
        self, build_steps: Callable[[KVCache], Iterable[Step]], *, prefix: tuple[int, ...], prefill_rows: int
    ) -> None:
        """Run steps that belong to no job eagerly, without their logits, in a cache of two slots behind a prefix of
        its own. `build_steps` yields them, given that cache; it holds a window and a token behind the prefix."""
        cache = self._new_cache(2, min(self.max_length, len(prefix) + self.window_size + 1))
        cache.prefix = self._compute_prefix(prefix, prefill_rows) if prefix else None
        for step in build_steps(cache):
            self._forward_eagerly(step, cache)

    @torch.inference_mode()
    def _execute(self, step: Step, cache: KVCache) -> Tensor | SlicedLogits:
        if not self._is_padded:
            step = step.without_padding()
        if self.overlaps_steps and (step.token_ids == PLACEHOLDER).any():
            self.share_tokens(self._last_tokens_S)  # in the same order on all ranks, which get the same steps
        run = self._forward_by_graph if self._uses_cuda_graphs else self._forward_eagerly
        hidden_NC = run(step, cache)
        if step.hidden_rows:
            self.hidden_states = hidden_NC[to_device(torch.tensor(step.hidden_rows), self.device)].float()
        rows, at_a_time = step.logit_rows, self._logit_rows[step.phase]
        most = rows_at_once(self.vocab_size, at_a_time)
        if len(rows) <= most:
            return self._logits(hidden_NC, rows, at_a_time)
        some = max(1, most // 4 // at_a_time) * at_a_time
        return SlicedLogits(len(rows), some, lambda first, end: self._logits(hidden_NC, rows[first:end], at_a_time))

    def store_tokens(self, slots: Sequence[int], tokens: Tensor) -> None:
        """Keep the newest tokens of some slots, int64 [R] on the model's device, for rows that are
        `PLACEHOLDER`. On rank 0 alone, which shares them."""
        self._last_tokens_S[to_device(torch.tensor(slots), self.device)] = tokens

    def _forward_eagerly(self, step: Step, cache: KVCache) -> Tensor:
        """Last hidden states [N, C] of a step."""
        return self._run_eagerly(append_step(step, cache), cache)

    def _run_eagerly(self, layout: StepLayout, cache: KVCache) -> Tensor:
        step = layout.step
        token_ids, positions = (to_device(x, self.device) for x in _tokens_and_positions(step))
        if self.overlaps_steps and step.phase == "decode":
            token_ids = self._fill_placeholders(token_ids, to_device(layout.row_slots(), self.device))
        return self._forward(token_ids, positions, build_attention(layout, cache))

    def _forward_by_graph(self, step: Step, cache: KVCache) -> Tensor:
        """The same by a CUDA graph, which is captured at the first step of its shape and replayed
        from then on. Where it cannot be captured on some rank, this step and all later ones run eagerly."""
        backend, layout = _capturable_backend(cache, step.phase), append_step(step, cache)
        inputs = backend.graph_inputs(layout, cache)
        values = _tokens_and_positions(step)
        idle = [torch.zeros_like(value) for value in values]
        forward = functools.partial(self._forward_captured, backend, cache, step.phase)
        if self._graphs is None:
            self._graphs = StepGraphs(self.agree)
        hidden_NC = self._graphs.run(step.phase, forward, [*values, *inputs.values], [*idle, *inputs.idle])
        if hidden_NC is not None:
            return hidden_NC
        logger.warning("steps run without CUDA graphs, which is slower: not every rank could capture them")
        self._wait_for_device()  # it may still run an earlier graph
        self._uses_cuda_graphs, self._graphs = False, None
        return self._run_eagerly(layout, cache)

    def _forward_captured(
        self,
        backend: CapturableBackend,
        cache: KVCache,
        phase: Phase,
        token_ids: Tensor,
        positions: Tensor,
        *inputs: Tensor,
    ) -> Tensor:
        """What a graph holds: a forward pass that depends on tensors on the device alone."""
        if phase == "decode":
            token_ids = self._fill_placeholders(token_ids, backend.row_slots(inputs))
        return self._forward(token_ids, positions, backend.bind(cache, phase, inputs))

    def _fill_placeholders(self, token_ids_N: Tensor, slots_N: Tensor) -> Tensor:
        """Replace placeholders by the tokens that only the device knows.

        A row that has no token (it is idle, or its sequence had non-finite logits) gets an
        arbitrary valid one.
        """
        kept_N = self._last_tokens_S[slots_N.clamp(min=0)]
        return torch.where(token_ids_N == PLACEHOLDER, kept_N, token_ids_N).clamp(min=0)

    def _forward(self, token_ids: Tensor, positions: Tensor, attention: StepAttention) -> Tensor:
        """Last hidden states [N, C] of token_ids and positions, int64 [N] on the model's device."""
        if self._layer_calls is not None and isinstance(attention, PreparedAttention):
            return self._layer_calls.run(token_ids, positions, attention, self.on_progress)
        return run_base(self.model, token_ids, positions, _ReportingAttention(attention, self.on_progress))

    @torch.inference_mode()
    def _logits(self, hidden_NC: Tensor, rows: NDArray[np.int64], at_a_time: int) -> Tensor:
        """Logits of some rows, `at_a_time` in one matmul; padded to that where a matmul's bits
        depend on its shape."""
        parts: list[Tensor] = []
        for first in range(0, len(rows), at_a_time):
            chosen = rows[first : first + at_a_time]
            if self._is_padded:
                index = to_device(torch.from_numpy(_padded(chosen, at_a_time)), self.device)
                parts.append(self._head(hidden_NC[index])[: len(chosen)])
            elif np.array_equal(chosen, np.arange(hidden_NC.shape[0])):  # a decode step: no copy
                parts.append(self._head(hidden_NC))
            else:
                parts.append(self._head(hidden_NC[torch.from_numpy(chosen)]))
            self.on_progress()
        if len(parts) == 1:
            return parts[0]
        return torch.cat(parts) if parts else hidden_NC.new_empty((0, 0), dtype=torch.float32)

    def _new_cache(self, num_slots: int, max_length: int) -> KVCache:
        return KVCache(self.shapes, num_slots=num_slots, max_length=max_length, dtype=self.dtype, device=self.device)


class _ReportingAttention:
    """The attention of a step that reports every layer."""

    def __init__(self, attention: StepAttention, on_layer: Callable[[], object]) -> None:
        self._attention, self._on_layer = attention, on_layer

    def attend(self, layer: int, q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, scale: float) -> Tensor:
        out_NHD = self._attention.attend(layer, q_NHD, k_NKD, v_NKD, scale)
        self._on_layer()
        return out_NHD


def _prefix_steps(token_ids: tuple[int, ...], *, window: int, num_rows: int) -> Iterator[Step]:
    """Prefill steps of one sequence in slot 0, in chunks that end where windows do."""
    fresh: tuple[FreshSlot, ...] = (FreshSlot(0, uses_prefix=False),)
    start = 0
    while start < len(token_ids):
        builder = StepBuilder("prefill", num_rows)
        while start < len(token_ids):
            tokens = token_ids[start : start + chunk_length(start, window=window, max_length=num_rows)]
            if not builder.has_room(len(tokens)):
                break
            builder.add(0, tokens, start)
            start += len(tokens)
        yield builder.build(fresh)
        fresh = ()


def _tokens_and_positions(step: Step) -> tuple[Tensor, Tensor]:
    """int64 [N] each, on the CPU."""
    return torch.from_numpy(step.token_ids), torch.from_numpy(step.positions)


def can_capture_graphs(model: nn.Module, max_length: int = sys.maxsize) -> bool:
    """Whether the steps of a whole model can be CUDA graphs: it is on a GPU, and a capturable
    backend takes its heads and knows all that its layers ask of attention for sequences of at most
    `max_length` tokens."""
    weight = next(model.parameters())
    if not weight.is_cuda or any(shape.rules.within(max_length) != NO_RULES for shape in layer_shapes(model)):
        return False
    heads = {HeadType(weight.dtype, weight.device, shape.head_dim) for shape in layer_shapes(model)}
    phases: tuple[Phase, ...] = ("prefill", "decode")
    return all(isinstance(choose_backend(heads, phase), CapturableBackend) for phase in phases)


def slots_that_fit(model: nn.Module, max_length: int, prefix_length: int = 0) -> int:
    """How many sequences of `max_length` tokens fit beside a model on its GPU now; at least one.

    On a GPU the cache is allocated as a whole; a tenth of the free memory is left for the tensors of a step. A shared
    prefix of `prefix_length` tokens is held once beside the slots. Behind it most sequences need less than a slot,
    but one that does not begin with it needs all of it, and so may those of the next job: docs/engine.md says what
    slots of different capacity would take. On a CPU memory is taken as sequences grow, so there the answer is
    unlimited.
    """
    weight = next(model.parameters())
    if not weight.is_cuda:
        return sys.maxsize
    free_bytes, _ = torch.cuda.mem_get_info(weight.device)
    return slots_in(int(0.9 * free_bytes), layer_shapes(model), weight.dtype, max_length, prefix_length)


def slots_in(
    num_bytes: int, shapes: Sequence[LayerShape], dtype: torch.dtype, max_length: int, prefix_length: int
) -> int:
    """How many slots of `max_length` tokens fit in `num_bytes` beside a shared prefix; at least one."""
    left = num_bytes - (slot_bytes(shapes, prefix_length, dtype) if prefix_length else 0)
    return max(1, left // slot_bytes(shapes, max_length, dtype))


def _capturable_backend(cache: KVCache, phase: Phase) -> CapturableBackend:
    backend = choose_backend(head_types(cache), phase)
    assert isinstance(backend, CapturableBackend), "CUDA graphs are for models for which can_capture_graphs()"
    return backend


def _padded(values: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    out = np.zeros(length, dtype=np.int64)
    out[: len(values)] = values
    return out
