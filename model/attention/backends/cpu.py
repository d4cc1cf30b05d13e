"""The CPU backend: C kernels that are compiled on the machine they run on.

The decode kernel takes heads of any width, the prefill kernel those of a multiple of 16. The choice
is made per phase, so a model may decode by the kernel and prefill by torch.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from tirazh.model.attention.backends import cpu_decode, cpu_prefill, plain
from tirazh.model.attention.backends.interface import HeadType, StepAttention
from tirazh.model.attention.kv_cache import KVCache, PrefixKV
from tirazh.model.attention.layer_shape import LayerKind
from tirazh.model.attention.masked import merge_attention
from tirazh.model.attention.prefill_chunks import PrefillChunks, build_chunks
from tirazh.model.attention.step_layout import StepLayout
from tirazh.model.kernels.build import ELEMENT_TYPES, load_kernel
from tirazh.model.kernels.calls import KernelCall, address
from tirazh.model.step import Phase


class CpuBackend:
    """Attention of float32 and bfloat16 on a CPU with a C compiler."""

    def supports(self, heads: HeadType, phase: Phase) -> bool:
        if phase == "prefill":
            return cpu_prefill.supports(heads)
        return cpu_decode.supports(heads) and load_kernel("merge_attention") is not None

    def build(self, layout: StepLayout, cache: KVCache) -> StepAttention:
        return _CpuDecode(layout, cache) if layout.step.phase == "decode" else _CpuPrefill(layout, cache)


class _CpuDecode:
    def __init__(self, layout: StepLayout, cache: KVCache) -> None:
        self._layout, self._cache = layout, cache

    def attend(self, layer: int, q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, scale: float) -> Tensor:
        out_NHD = q_NHD.new_empty(q_NHD.shape)
        prefix = self._prefix(layer)
        if prefix is None or cpu_prefill.supports(HeadType.of(q_NHD)):
            for call in self.calls(layer, q_NHD, k_NKD, v_NKD, scale, out_NHD):
                call.run()
            return out_NHD
        lse_NH = torch.empty(q_NHD.shape[:2])
        self._own_keys(layer, q_NHD, k_NKD, v_NKD, scale, (out_NHD, lse_NH)).run()
        has_prefix_N = self._layout.prefix_rows
        assert has_prefix_N is not None
        return merge_attention(out_NHD, lse_NH, *plain.attend_prefix(q_NHD, prefix, scale), has_prefix_N)

    def calls(
        self, layer: int, q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, scale: float, out_NHD: Tensor
    ) -> list[KernelCall]:
        lse_NH = torch.empty(q_NHD.shape[:2])
        calls = [self._own_keys(layer, q_NHD, k_NKD, v_NKD, scale, (out_NHD, lse_NH))]
        prefix, has_prefix_N = self._prefix(layer), self._layout.prefix_rows
        if prefix is not None and has_prefix_N is not None:
            other = q_NHD.new_empty(q_NHD.shape), torch.empty(q_NHD.shape[:2])
            calls.append(cpu_prefill.prefix_call(q_NHD, prefix, scale, other))
            calls.append(merge_call(out_NHD, lse_NH, *other, has_prefix_N))
        return calls

    def _own_keys(
        self, layer: int, q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, scale: float, results: cpu_prefill.Results
    ) -> KernelCall:
        """Every row over the keys of its slot. Windows that are full are closed now."""
        cache = self._cache.layers[layer]
        plain.close_windows(self._layout, cache)
        rows = self._layout.decode_rows(cache.shape.kind)
        return cpu_decode.attend_call(q_NHD, k_NKD, v_NKD, cache.k, cache.v, rows, scale, *results)

    def _prefix(self, layer: int) -> PrefixKV | None:
        return None if self._layout.prefix_rows is None else self._cache.prefix_kv(layer)


class _CpuPrefill:
    def __init__(self, layout: StepLayout, cache: KVCache) -> None:
        self._layout, self._cache = layout, cache
        self._chunks: dict[LayerKind, PrefillChunks] = {}

    def attend(self, layer: int, q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, scale: float) -> Tensor:
        out_NHD = torch.zeros(q_NHD.shape, dtype=q_NHD.dtype)
        for call in self.calls(layer, q_NHD, k_NKD, v_NKD, scale, out_NHD):
            call.run()
        return out_NHD

    def calls(
        self, layer: int, q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, scale: float, out_NHD: Tensor
    ) -> list[KernelCall]:
        cache, kind = self._cache.layers[layer], self._cache.layers[layer].shape.kind
        prefix = None if self._layout.prefix_rows is None else self._cache.prefix_kv(layer)
        if kind not in self._chunks:
            num_prefix = prefix.k.shape[1] if prefix else 0
            self._chunks[kind] = build_chunks(self._layout.contexts, cache, num_prefix=num_prefix)
        results = out_NHD, torch.empty(q_NHD.shape[:2])
        return [cpu_prefill.attend_call(q_NHD, k_NKD, v_NKD, cache, self._chunks[kind], scale, prefix, results)]


def merge_call(
    out_NHD: Tensor, lse_NH: Tensor, other_NHD: Tensor, other_lse_NH: Tensor, has_other_N: Tensor
) -> KernelCall:
    """Prepare the merge of attention over two sets of keys, as `merge_attention` does it, into `out_NHD`. All are
    contiguous; float32 or bfloat16, the log-sum-exps float32, `has_other_N` bool."""
    kernel = load_kernel("merge_attention")
    assert kernel is not None
    tensors = (out_NHD, other_NHD, lse_NH, other_lse_NH, has_other_N)
    arguments = MergeArguments(*map(address, tensors), *out_NHD.shape)
    return KernelCall(getattr(kernel, f"merge_attention_{ELEMENT_TYPES[out_NHD.dtype]}"), arguments, tensors)


class MergeArguments(ctypes.Structure):
    """The structure `arguments` of `kernels/merge_attention.c`, field by field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("out", "other", "lse", "other_lse", "has_other")),
        *((name, ctypes.c_int64) for name in ("num_rows", "num_heads", "dim")),
    )
