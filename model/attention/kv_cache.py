"""The KV cache: per slot and layer, only the keys and values that can still be read.

A dense layer keeps all tokens. A sparse layer keeps, head by head, the global tokens of closed
windows (the retained tokens) and the open window behind them: at most 368 of 2,048 tokens with XL's
pattern. Positions are learned and added before attention, so the order of keys does not matter, and
a step reads retained tokens and window as one contiguous range. What all rows of a job begin with
(the shared prefix) is held once, in a `PrefixCache`.
Legend: S slots, H key/value heads on this rank, C capacity in tokens, D head dim, W window, G
global tokens of a window.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import mmap
import platform
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from tirazh.errors import RequestError
from tirazh.model.attention.layer_shape import NO_RULES, LayerKind, LayerShape
from tirazh.model.step import FreshSlot
from tirazh.model.transfer import to_device

# A batched decode reads as many keys as its longest row has, rounded up. As long as that is a whole
# number of vectors (16 floats), the keys masked out behind a row's end change no bit of the row; a
# partial vector does.
_VECTOR = 16

# MAP_NORESERVE, which Python names from 3.13 on; its number is the same on these machines.
_IS_COMMON_LINUX = sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64")
_NO_RESERVATION = getattr(mmap, "MAP_NORESERVE", 0x4000 if _IS_COMMON_LINUX else 0)


class PrefixKV(NamedTuple):
    """One layer's keys and values of the shared prefix that every slot reads in place, [H, tokens,
    D] each."""

    k: Tensor
    v: Tensor


@dataclass(frozen=True, slots=True)
class PrefixLayer:
    """A layer's keys and values of the shared prefix, each [H, tokens, D].

    `shared` is read in place by every slot. `opening`, the part of a sparse layer that lies in a
    window still open, is copied into a slot when the slot starts, because each row closes that
    window by itself.
    """

    shared: PrefixKV
    opening_k: Tensor
    opening_v: Tensor


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class PrefixCache:
    """The shared prefix of a job, computed once. `length` in tokens."""

    length: int
    layers: tuple[PrefixLayer, ...]

    def copy_from(self, other: PrefixCache) -> None:
        """Take the keys and values of another prefix of this length, at the same addresses as before."""
        for own, new in zip(self.layers, other.layers, strict=True):
            own.shared.k.copy_(new.shared.k)
            own.shared.v.copy_(new.shared.v)
            own.opening_k.copy_(new.opening_k)
            own.opening_v.copy_(new.opening_v)


class LayerCache:
    """Keys and values of one layer, [S, H, C, D] each."""

    def __init__(
        self, shape: LayerShape, num_slots: int, max_length: int, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.shape = shape
        size = (num_slots, shape.num_heads, _padded_capacity(shape, max_length), shape.head_dim)
        self.k = _zeros(size, dtype, device)
        self.v = _zeros(size, dtype, device)
        starts = shape.global_starts or ()
        self.global_starts_H = torch.tensor(starts, dtype=torch.int64, device=device)

    def close_window(self, slot: int, window_start: int) -> None:
        """Close the full window whose keys begin at index `window_start` of the slot.

        Each head moves its own global tokens of the window to `window_start`, behind the tokens
        retained so far; the rest of the window is overwritten by what comes next.
        """
        size = self.shape.sparse_pattern.global_size
        index_HG = self.global_starts_H[:, None] + torch.arange(window_start, window_start + size, device=self.k.device)
        for x in (self.k, self.v):
            kept = x[slot].gather(1, index_HG[:, :, None].expand(-1, -1, x.shape[-1]))
            x[slot, :, window_start : window_start + size] = kept


class KVCache:
    """All layers' caches and the length of the sequence in every slot; the lengths are the same on
    every rank."""

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
        self.dtype, self.device = dtype, device
        self.prefix = prefix
        self.lengths = [0] * num_slots  # tokens of the sequence, the shared prefix included
        self.has_prefix = [False] * num_slots
        self.head_dims = frozenset(shape.head_dim for shape in shapes)
        self.has_rules = any(shape.rules != NO_RULES for shape in shapes)  # a sliding window or a softcap
        layers = {layer.shape.kind: layer for layer in self.layers}
        # One layer of every kind that the model has, in a fixed order of kinds.
        self.layer_of_kind = {kind: layers[kind] for kind in LayerKind if kind in layers}
        self._layers_per_shape = Counter(shapes)
        pattern = next((shape.sparse_pattern for shape in shapes if shape.kind is LayerKind.SPARSE), None)
        self.window_size = pattern.window_size if pattern else 0
        self.global_size = pattern.global_size if pattern else 0

    def start(self, fresh: Sequence[FreshSlot]) -> None:
        """Begin new sequences in slots: from nothing, behind the shared prefix, or as a fork of another slot.

        They begin in the order given, so a slot may be forked and then taken by another sequence.
        What earlier sequences left in a slot is masked out and harmless, unless it is NaN:
        `must_zero` zeroes the slot.
        """
        for source, group in itertools.groupby(fresh, key=lambda each: each.fork_of):
            some = list(group)
            for each in some:
                if each.must_zero:
                    for cache in self.layers:
                        cache.k[each.slot] = 0
                        cache.v[each.slot] = 0
            if source is None:
                self._begin(some)
            else:
                self._fork(source, [each.slot for each in some])

    def _begin(self, fresh: Sequence[FreshSlot]) -> None:
        """Begin sequences from nothing or behind the shared prefix."""
        for each in fresh:
            self.has_prefix[each.slot] = each.uses_prefix
            self.lengths[each.slot] = self.prefix.length if each.uses_prefix and self.prefix is not None else 0
        slots = [each.slot for each in fresh if each.uses_prefix]
        if slots and self.prefix is not None:
            index = to_device(torch.tensor(slots), self.device)
            for cache, layer in zip(self.layers, self.prefix.layers, strict=True):
                opening = layer.opening_k.shape[1]
                if opening:
                    cache.k[index, :, :opening] = layer.opening_k
                    cache.v[index, :, :opening] = layer.opening_v

    def _fork(self, source: int, slots: Sequence[int]) -> None:
        """Copy the sequence in slot `source` to other slots: only the keys and values that can still be read."""
        held = {LayerKind.DENSE: self.own_length(source)}
        if self.window_size:
            held[LayerKind.SPARSE] = self.num_retained(source) + self.num_open(source)
        index = to_device(torch.tensor(slots), self.device)
        for cache in self.layers:
            count = held[cache.shape.kind]
            for x in (cache.k, cache.v):
                # A copy first: where the source fills its slot, torch refuses a view of the tensor that it writes to.
                x[index, :, :count] = x[source, :, :count].clone()
        for slot in slots:
            self.has_prefix[slot], self.lengths[slot] = self.has_prefix[source], self.lengths[source]

    def replace_prefix(self, prefix: PrefixCache | None) -> None:
        """Put another shared prefix, or none, in the place of the one that is held. No slot may be in use."""
        self.prefix = prefix
        self.lengths = [0] * self.num_slots
        self.has_prefix = [False] * self.num_slots

    def prefix_kv(self, layer: int) -> PrefixKV | None:
        """A layer's keys and values of the shared prefix that slots read in place; None if there
        are none."""
        if self.prefix is None:
            return None
        shared = self.prefix.layers[layer].shared
        return shared if shared.k.shape[1] else None

    def own_length(self, slot: int) -> int:
        """Tokens of the sequence that the slot itself holds in a dense layer (without the shared
        prefix)."""
        return self.lengths[slot] - self._prefix_length(slot)

    def num_retained(self, slot: int) -> int:
        """Tokens that each head of a sparse layer retains in the slot from closed windows.

        A full window is closed only when the next token comes: the queries of its last token still
        see all of it.
        """
        closed = (self.lengths[slot] - 1) // self.window_size - self._prefix_windows(slot)
        return max(0, closed) * self.global_size

    def num_open(self, slot: int) -> int:
        """Tokens of the open window that the slot holds in a sparse layer, behind the retained ones."""
        first = self._prefix_windows(slot) * self.window_size
        length = self.lengths[slot]
        return 0 if length <= first else length - (length - 1) // self.window_size * self.window_size

    def is_window_full(self, slot: int) -> bool:
        """Whether the next token closes a window that the slot itself holds."""
        return self.window_size > 0 and self.num_open(slot) == self.window_size

    def advance(self, slot: int, num_tokens: int) -> None:
        """Count tokens whose keys every layer has taken or takes in this step."""
        self.lengths[slot] += num_tokens

    def bytes_kept(self, length: int) -> int:
        """Bytes that one sequence of `length` tokens needs in all layers.

        A specification for tests and benchmarks; what a slot really occupies is `bytes_taken`.
        """
        return sum(
            2 * c.shape.tokens_kept(length) * c.shape.num_heads * c.shape.head_dim * c.k.element_size()
            for c in self.layers
        )

    def bytes_taken(self, length: int) -> int:
        """Bytes of memory that a slot on a CPU occupies once it has held `length` tokens, on average
        over slots and heads.

        Memory is occupied in whole pages. Where a head's keys are no multiple of a page, they begin
        anywhere in a page that their size allows, and reach into one page more.
        """
        if not length:
            return 0
        total = 0
        for shape, num_layers in self._layers_per_shape.items():
            token_bytes = shape.head_dim * self.dtype.itemsize
            most = _padded_capacity(shape, self.max_length) * token_bytes
            unit = math.gcd(most, mmap.PAGESIZE)
            used = -(-shape.capacity(length) * token_bytes // unit) * unit
            total += num_layers * 2 * shape.num_heads * min(most, used + mmap.PAGESIZE - unit)
        return total

    def to_prefix(self) -> PrefixCache:
        """Make slot 0's sequence the shared prefix of another cache.

        Views, not copies; closes a full window.
        """
        length = self.lengths[0]
        layers = []
        for cache in self.layers:
            split = end = cache.shape.tokens_kept(length)
            if cache.shape.kind is LayerKind.SPARSE:
                if self.is_window_full(0):
                    cache.close_window(0, self.num_retained(0))
                windows = length // self.window_size
                split = windows * self.global_size
                end = split + length - windows * self.window_size
            k, v = cache.k[0], cache.v[0]
            layers.append(PrefixLayer(PrefixKV(k[:, :split], v[:, :split]), k[:, split:end], v[:, split:end]))
        return PrefixCache(length, tuple(layers))

    def _prefix_length(self, slot: int) -> int:
        return self.prefix.length if self.prefix is not None and self.has_prefix[slot] else 0

    def _prefix_windows(self, slot: int) -> int:
        return self._prefix_length(slot) // self.window_size if self.window_size else 0


def _padded_capacity(shape: LayerShape, max_length: int) -> int:
    """Tokens that a slot has space for: those of a sequence of `max_length` tokens, in whole vectors."""
    return -(-shape.capacity(max_length) // _VECTOR) * _VECTOR


def slot_bytes(shapes: Sequence[LayerShape], max_length: int, dtype: torch.dtype) -> int:
    """Bytes that a slot takes where the cache is allocated as a whole, as on a GPU; also those of a shared prefix of
    `max_length` tokens."""
    elements = sum(2 * _padded_capacity(shape, max_length) * shape.num_heads * shape.head_dim for shape in shapes)
    return elements * dtype.itemsize


def _zeros(size: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros. On a CPU a page takes memory only when it is first written: most slots never grow to
    their capacity.

    Raises RequestError if the system refuses the address space.
    """
    if device.type != "cpu":
        return torch.zeros(size, dtype=dtype, device=device)
    num_bytes = max(1, math.prod(size) * dtype.itemsize)
    # Without a reservation, or a mapping larger than the machine's memory would be refused.
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVATION
    try:
        pages = mmap.mmap(-1, num_bytes, flags=flags)
    except OSError as error:
        raise RequestError(
            f"the system refuses {num_bytes / 2**30:,.1f} GiB of address space for the KV cache of {size[0]:,} slots "
            f"({error.strerror}): use fewer --slots, or allow it (vm.overcommit_memory, ulimit -v)"
        ) from error
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        # Huge pages of 2 MB would occupy, and zero, a slot's whole capacity for its first few tokens.
        with contextlib.suppress(OSError):
            pages.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(pages, dtype=torch.uint8)[: math.prod(size) * dtype.itemsize].view(dtype).view(size)
