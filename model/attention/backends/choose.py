"""Chooses the attention backend."""

from __future__ import annotations

from collections.abc import Collection

from tirazh.model.attention.backends.cpu import CpuBackend
from tirazh.model.attention.backends.gpu import GpuBackend
from tirazh.model.attention.backends.interface import AttentionBackend, HeadType, StepAttention
from tirazh.model.attention.backends.plain import PlainBackend
from tirazh.model.attention.kv_cache import KVCache
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
    """The attention of a step, by the fastest backend that takes the heads of the cache."""
    return choose_backend(head_types(cache), layout.step.phase).build(layout, cache)
