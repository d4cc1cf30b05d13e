"""The KV cache: per slot and layer only the keys and values that can still be read.

A sparse layer keeps, head by head, the global tokens of closed windows (the strip) and the open window after it:
at most 368 of 2,048 tokens with XL's pattern. Positions are learned and added before attention, so the order of keys
means nothing, and a step reads strip and window as one plain stretch. A dense layer keeps everything. What all rows of
a job begin with (the shared prefix) is held once, in a `PrefixCache`.
Legend: S slots, H key/value heads on this rank, C capacity in tokens, D head dim, W window, G global tokens of one.
"""

from __future__ import annotations

import contextlib
import math
import mmap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tirazh.model.config import SparsePattern
from tirazh.model.step import FreshSlot
from tirazh.model.transfer import to_device

# A batched decode reads as many keys as its longest row has, rounded up. While that is a whole number of vectors (16
# floats), the keys masked out behind a row's end change no bit of it; one vector cut short does.
_VECTOR = 16


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What the cache must know of one layer. `global_starts` (one a head of this rank) is None in a dense layer."""

    num_heads: int
    head_dim: int
    pattern: SparsePattern | None = None
    global_starts: tuple[int, ...] | None = None

    def tokens_kept(self, length: int) -> int:
        """Tokens of a sequence of `length` tokens that are still in the cache."""
        return length if self.pattern is None else self.pattern.tokens_kept(length)

    def capacity(self, max_length: int) -> int:
        """Most tokens the cache of one slot ever holds."""
        return max_length if self.pattern is None else self.pattern.most_tokens_kept(max_length)


@dataclass(frozen=True, slots=True)
class PrefixLayer:
    """A layer's keys and values of the shared prefix: `shared` is read in place by every slot, `opening` (the part of
    a sparse layer that lies in a window still open) is copied into a slot when it starts. Each [H, tokens, D]."""

    shared_k: Tensor
    shared_v: Tensor
    opening_k: Tensor
    opening_v: Tensor


@dataclass(frozen=True, slots=True)
class PrefixCache:
    """The shared prefix of a job, computed once. `length` in tokens."""

    length: int
    layers: tuple[PrefixLayer, ...]


class LayerCache:
    """Keys and values of one layer, [S, H, C, D] each."""

    def __init__(
        self, shape: LayerShape, num_slots: int, max_length: int, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.shape = shape
        capacity = -(-shape.capacity(max_length) // _VECTOR) * _VECTOR
        size = (num_slots, shape.num_heads, capacity, shape.head_dim)
        self.k = _zeros(size, dtype, device)
        self.v = _zeros(size, dtype, device)
        starts = shape.global_starts or ()
        self.global_starts_H = torch.tensor(starts, dtype=torch.int64, device=device)

    def close_window(self, slot: int, strip_end: int) -> None:
        """Each head moves its own global tokens of the full window, which starts at `strip_end`, to there."""
        assert self.shape.pattern is not None
        size = self.shape.pattern.global_size
        index_HG = self.global_starts_H[:, None] + torch.arange(strip_end, strip_end + size, device=self.k.device)
        for x in (self.k, self.v):
            kept = x[slot].gather(1, index_HG[:, :, None].expand(-1, -1, x.shape[-1]))
            x[slot, :, strip_end : strip_end + size] = kept


class KVCache:
    """All layers' caches and the length of the sequence in every slot; the same on every rank."""

    def __init__(
        self,
        shapes: Sequence[LayerShape],
        *,
        num_slots: int,
        max_length: int,
        dtype: torch.dtype,
        device: torch.device,
        prefix: PrefixCache | None = None,
    ) -> None:
        self.layers = [LayerCache(shape, num_slots, max_length, dtype=dtype, device=device) for shape in shapes]
        self.num_slots = num_slots
        self.max_length = max_length
        self.prefix = prefix
        self.lengths = [0] * num_slots  # tokens of the sequence, the shared prefix included
        self.has_prefix = [False] * num_slots
        self._kinds, self._width = Counter(shapes), dtype.itemsize
        pattern = next((shape.pattern for shape in shapes if shape.pattern), None)
        self.window_size = pattern.window_size if pattern else 0
        self.global_size = pattern.global_size if pattern else 0

    def start(self, fresh: Sequence[FreshSlot]) -> None:
        """Begin new sequences in slots, behind the shared prefix or from nothing. What earlier ones left there is
        masked out and harmless, unless it is NaN: `must_zero` wipes a slot first."""
        for each in fresh:
            self.has_prefix[each.slot] = each.uses_prefix
            self.lengths[each.slot] = self.prefix.length if each.uses_prefix and self.prefix is not None else 0
            if each.must_zero:
                for cache in self.layers:
                    cache.k[each.slot] = 0
                    cache.v[each.slot] = 0
        slots = [each.slot for each in fresh if each.uses_prefix]
        if slots and self.prefix is not None:
            index = to_device(torch.tensor(slots), self.layers[0].k.device)
            for cache, layer in zip(self.layers, self.prefix.layers, strict=True):
                opening = layer.opening_k.shape[1]
                if opening:
                    cache.k[index, :, :opening] = layer.opening_k
                    cache.v[index, :, :opening] = layer.opening_v

    def own_length(self, slot: int) -> int:
        """Tokens of the sequence that a dense layer of the slot itself holds."""
        return self.lengths[slot] - self._prefix_length(slot)

    def strip_length(self, slot: int) -> int:
        """Tokens in the slot's own strips. A full window is closed only when the next token comes: the queries of
        its last token still see all of it."""
        closed = (self.lengths[slot] - 1) // self.window_size - self._prefix_windows(slot)
        return max(0, closed) * self.global_size

    def open_length(self, slot: int) -> int:
        """Tokens of the open window that the slot holds, behind the strips."""
        first = self._prefix_windows(slot) * self.window_size
        length = self.lengths[slot]
        return 0 if length <= first else length - (length - 1) // self.window_size * self.window_size

    def is_window_full(self, slot: int) -> bool:
        """Whether the next token closes a window of the slot's own."""
        return self.window_size > 0 and self.open_length(slot) == self.window_size

    def advance(self, slot: int, num_tokens: int) -> None:
        """Count tokens whose keys every layer has taken (or is about to take, in this step)."""
        self.lengths[slot] += num_tokens

    def bytes_kept(self, length: int) -> int:
        """Bytes that one sequence of `length` tokens needs, all layers."""
        return sum(
            2 * c.shape.tokens_kept(length) * c.shape.num_heads * c.shape.head_dim * c.k.element_size()
            for c in self.layers
        )

    def bytes_taken(self, length: int) -> int:
        """Bytes of memory that a slot on a CPU has taken once it held `length` tokens: every head's whole pages."""
        total = 0
        for shape, num_layers in self._kinds.items():
            head_bytes = shape.capacity(length) * shape.head_dim * self._width
            total += num_layers * 2 * shape.num_heads * -(-head_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        return total

    def to_prefix(self) -> PrefixCache:
        """Make slot 0's sequence the shared prefix of another cache."""
        length = self.lengths[0]
        layers = []
        for cache in self.layers:
            end = cache.shape.tokens_kept(length)
            split = end
            if cache.shape.pattern is not None:
                if self.is_window_full(0):
                    cache.close_window(0, self.strip_length(0))
                windows = length // self.window_size
                split = windows * self.global_size
                end = split + length - windows * self.window_size
            k, v = cache.k[0], cache.v[0]
            layers.append(PrefixLayer(k[:, :split], v[:, :split], k[:, split:end], v[:, split:end]))
        return PrefixCache(length, tuple(layers))

    def _prefix_length(self, slot: int) -> int:
        return self.prefix.length if self.prefix is not None and self.has_prefix[slot] else 0

    def _prefix_windows(self, slot: int) -> int:
        return self._prefix_length(slot) // self.window_size if self.window_size else 0


def _zeros(size: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros whose pages, on a CPU, are taken only when they are written: most slots never grow to their capacity."""
    if device.type != "cpu":
        return torch.zeros(size, dtype=dtype, device=device)
    num_bytes = max(1, math.prod(size) * dtype.itemsize)
    pages = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        # Pages of 2 MB would take, and wipe, a slot's whole capacity for its first few tokens.
        with contextlib.suppress(OSError):
            pages.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(pages, dtype=torch.uint8)[: math.prod(size) * dtype.itemsize].view(dtype).view(size)
