"""The chunks of a prefill step as the CPU and torch backends take them: one per segment, laid out
once per layer kind."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tirazh.model.attention.chunk_table import MASK_UNIT, ChunkTable
from tirazh.model.attention.kv_cache import LayerCache
from tirazh.model.attention.layer_shape import LayerKind
from tirazh.model.attention.masked import additive_mask
from tirazh.model.attention.segment_context import SegmentContext
from tirazh.model.attention.tree_masks import tree_mask
from tirazh.model.kernels.tables import ChunkRow


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """Rows `row` to `row + length` of the step continue the sequence in `slot`.

    They attend to `num_prefix` tokens of the shared prefix (all of it or none), then to `num_kept`
    keys in the slot's cache, then to their own keys.
    `close_at`: the slot's open window is full and begins at this key; it is closed first (None: it
    is not).
    `visible`: None for a causal chunk, whose keys are put into the cache behind the others.
    Otherwise a label tree: bool [1 or H, T, num_kept + T], what each row sees of the cached keys
    and of the chunk's own, which are not cached.
    """

    slot: int
    row: int
    length: int
    num_kept: int
    num_prefix: int = 0
    close_at: int | None = None
    visible: Tensor | None = None


class PrefillChunks:
    """The chunks of a step in the order of their rows; the same in every layer of a kind."""

    def __init__(self, chunks: Sequence[PrefillChunk]) -> None:
        self.chunks = tuple(chunks)
        self._masks: dict[int, Tensor] = {}

    @functools.cached_property
    def table(self) -> ChunkTable:
        """The C kernel's table of the chunks and their masks."""
        masks: list[Tensor] = []
        rows: list[ChunkRow] = []
        num_mask_elements = 0
        for chunk in self.chunks:
            row = ChunkRow(
                slot=chunk.slot,
                row=chunk.row,
                length=chunk.length,
                prefix_count=chunk.num_prefix,
                close_at=-1 if chunk.close_at is None else chunk.close_at,
                kept=chunk.num_kept,
                num_own=chunk.length,
                is_kept=int(chunk.visible is None),
            )
            if chunk.visible is not None:
                mask = _kernel_mask(chunk.visible)
                # A stride of 0 makes all heads share one mask.
                row = row._replace(mask_at=num_mask_elements, mask_head=mask.stride(0) if len(mask) > 1 else 0)
                masks.append(mask)
                num_mask_elements += mask.numel()
            rows.append(row)
        return ChunkTable(rows, masks)

    def mask(self, index: int, like: Tensor) -> Tensor:
        """Additive mask of chunk `index` for torch, [1 or H, T, num_kept + T]; made once for all
        layers of a kind."""
        if index not in self._masks:
            chunk = self.chunks[index]
            visible = chunk.visible
            if visible is None:
                keys = chunk.num_kept + chunk.length
                visible = torch.ones(1, chunk.length, keys, dtype=torch.bool).tril(chunk.num_kept)
            self._masks[index] = additive_mask(visible, like)
        return self._masks[index]


def build_chunks(contexts: Sequence[SegmentContext], cache: LayerCache, *, num_prefix: int) -> PrefillChunks:
    """The chunks of a step in layers shaped like `cache` that read `num_prefix` tokens of the
    shared prefix in place."""
    return PrefillChunks([_chunk(context, cache, num_prefix) for context in contexts])


def _chunk(context: SegmentContext, cache: LayerCache, num_prefix: int) -> PrefillChunk:
    segment, kind = context.segment, cache.shape.kind
    closes_window = kind is LayerKind.SPARSE and context.closes_window
    parents = segment.tree_parents
    return PrefillChunk(
        slot=segment.slot,
        row=segment.row,
        length=segment.length,
        num_kept=context.num_cached(kind),
        num_prefix=num_prefix if context.has_prefix else 0,
        close_at=context.num_retained if closes_window else None,
        visible=None if parents is None else tree_mask(context, parents, cache),
    )


def _kernel_mask(visible: Tensor) -> Tensor:
    """Additive float32 [1 or H, keys, padded T]: the C kernel has queries in the lanes of vectors,
    so they are last."""
    heads, length, num_keys = visible.shape
    mask = torch.zeros(heads, num_keys, -(-length // MASK_UNIT) * MASK_UNIT)
    mask[:, :, :length].masked_fill_(~visible.transpose(1, 2), -torch.inf)
    return mask
