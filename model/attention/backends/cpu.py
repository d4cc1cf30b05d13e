"""The CPU backend: C kernels that are compiled on the machine they run on.

The decode kernel takes heads of any width, the prefill kernel those of a multiple of 16. The choice
is made per phase, so a model may decode by the kernel and prefill by torch.
"""

from __future__ import annotations

from torch import Tensor

from tirazh.model.attention.backends import cpu_decode, cpu_prefill, plain
from tirazh.model.attention.backends.interface import HeadType, StepAttention
from tirazh.model.attention.kv_cache import KVCache, PrefixKV
from tirazh.model.attention.layer_shape import LayerKind
from tirazh.model.attention.masked import merge_attention
from tirazh.model.attention.prefill_chunks import PrefillChunks, build_chunks
from tirazh.model.attention.step_layout import StepLayout
from tirazh.model.step import Phase


class CpuBackend:
    """Attention of float32 and bfloat16 on a CPU with a C compiler."""

    def supports(self, heads: HeadType, phase: Phase) -> bool:
        return cpu_decode.supports(heads) if phase == "decode" else cpu_prefill.supports(heads)

    def build(self, layout: StepLayout, cache: KVCache) -> StepAttention:
        return _CpuDecode(layout, cache) if layout.step.phase == "decode" else _CpuPrefill(layout, cache)


class _CpuDecode:
    def __init__(self, layout: StepLayout, cache: KVCache) -> None:
        self._layout, self._cache = layout, cache

    def attend(self, layer: int, q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, scale: float) -> Tensor:
        cache = self._cache.layers[layer]
        plain.close_windows(self._layout, cache)
        rows = self._layout.decode_rows(cache.shape.kind)
        out_NHD, lse_NH = cpu_decode.attend_compiled(q_NHD, k_NKD, v_NKD, cache.k, cache.v, rows, scale)
        prefix = self._cache.prefix_kv(layer)
        if prefix is None or self._layout.prefix_rows is None:
            return out_NHD
        return merge_attention(out_NHD, lse_NH, *attend_prefix(q_NHD, prefix, scale), self._layout.prefix_rows)


class _CpuPrefill:
    def __init__(self, layout: StepLayout, cache: KVCache) -> None:
        self._layout, self._cache = layout, cache
        self._chunks: dict[LayerKind, PrefillChunks] = {}

    def attend(self, layer: int, q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, scale: float) -> Tensor:
        cache, kind = self._cache.layers[layer], self._cache.layers[layer].shape.kind
        prefix = None if self._layout.prefix_rows is None else self._cache.prefix_kv(layer)
        if kind not in self._chunks:
            num_prefix = prefix.k.shape[1] if prefix else 0
            self._chunks[kind] = build_chunks(self._layout.contexts, cache, num_prefix=num_prefix)
        return cpu_prefill.attend_compiled(q_NHD, k_NKD, v_NKD, cache, self._chunks[kind], scale, prefix)[0]


def attend_prefix(q_NHD: Tensor, prefix: PrefixKV, scale: float) -> tuple[Tensor, Tensor]:
    """Every row over all keys of the shared prefix.

    Returns [N, H, D] and the log-sum-exp, float32 [N, H].
    """
    if cpu_prefill.supports(HeadType.of(q_NHD)):
        return cpu_prefill.attend_prefix(q_NHD, prefix, scale)
    return plain.attend_prefix(q_NHD, prefix, scale)
