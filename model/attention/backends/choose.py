"""Chooses the attention backend: one for all layers of a model, and another for those of its layers that have a
sliding window or a softcap."""

from __future__ import annotations

from collections.abc import Collection
from weakref import WeakKeyDictionary

from torch import Tensor

from tirazh.model.attention.backends.cpu import CpuBackend
from tirazh.model.attention.backends.gpu import GpuBackend
from tirazh.model.attention.backends.interface import AttentionBackend, HeadType, StepAttention
from tirazh.model.attention.backends.plain import PlainBackend
from tirazh.model.attention.backends.ruled import RuledAttention
from tirazh.model.attention.kv_cache import KVCache
from tirazh.model.attention.layer_shape import NO_RULES
from tirazh.model.attention.step_layout import StepLayout
from tirazh.model.step import Phase

# Fastest first; the last one takes all heads.
BACKENDS: tuple[AttentionBackend, ...] = (GpuBackend(), CpuBackend(), PlainBackend())


def choose_backend(heads: Collection[HeadType], phase: Phase) -> AttentionBackend:
    """The fastest backend that takes all of a model's types of heads on this machine."""
    return next(backend for backend in BACKENDS if all(backend.supports(each, phase) for each in heads))


def head_types(cache: KVCache) -> set[HeadType]:
    """The types of heads in a cache: one, unless the model's layers differ in head dim."""
    return {HeadType(cache.dtype, cache.device, head_dim) for head_dim in cache.head_dims}


def build_attention(layout: StepLayout, cache: KVCache) -> StepAttention:
    """The attention of a step, by the fastest backend that takes the heads of the cache; no kernel
    knows a sliding window or a softcap, so torch computes layers that have one."""
    chosen, phase = _chosen.setdefault(cache, {}), layout.step.phase
    if phase not in chosen:
        chosen[phase] = choose_backend(head_types(cache), phase)
    fast = chosen[phase].build(layout, cache)
    return _ByLayer(cache, fast, RuledAttention(layout, cache)) if cache.has_rules else fast


_chosen: WeakKeyDictionary[KVCache, dict[Phase, AttentionBackend]] = WeakKeyDictionary()


class _ByLayer:
    """Passes every layer to the attention that knows its rules."""

    def __init__(self, cache: KVCache, fast: StepAttention, ruled: StepAttention) -> None:
        self._of_layer = [fast if layer.shape.rules == NO_RULES else ruled for layer in cache.layers]

    def attend(self, layer: int, q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, scale: float) -> Tensor:
        return self._of_layer[layer].attend(layer, q_NHD, k_NKD, v_NKD, scale)
