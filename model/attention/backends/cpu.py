"""The CPU backend: C kernels that are compiled on the machine they run on.

The decode kernel takes heads of any width, the prefill kernel those of a multiple of 16. The choice
is made per phase, so a model may decode by the kernel and prefill by torch.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from tirazh.model.attention.backends import cpu_decode, cpu_prefill, plain
from tirazh.model.attention.backends.interface import HeadType, PreparedAttention, StepAttention, StepForm
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


class _CpuStep(PreparedAttention):
    """What both phases have: the step, its form, and the memory of its calls."""

    def __init__(self, layout: StepLayout, cache: KVCache) -> None:
        self._layout, self._cache = layout, cache
        self.form = StepForm(cache, layout.step.phase, None if layout.prefix_rows is None else cache.prefix)
        self._memory = _Memory()

    def _prefix(self, layer: int) -> PrefixKV | None:
        return None if self._layout.prefix_rows is None else self._cache.prefix_kv(layer)

    def _run(self, layer: int, calls: Sequence[KernelCall]) -> None:
        self.set_step(layer, calls)
        for call in calls:
            call.run()


class _CpuDecode(_CpuStep):
    def attend(self, layer: int, q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, scale: float) -> Tensor:
        out_NHD = q_NHD.new_empty(q_NHD.shape)
        prefix = self._prefix(layer)
        if prefix is None or cpu_prefill.supports(HeadType.of(q_NHD)):
            self._run(layer, self.calls(layer, q_NHD, k_NKD, v_NKD, scale, out_NHD))
            return out_NHD
        cache, has_prefix_N = self._cache.layers[layer], self._layout.prefix_rows
        assert has_prefix_N is not None
        plain.close_windows(self._layout, cache)
        rows = self._layout.decode_rows(cache.shape.kind)
        own = cpu_decode.attend_compiled(q_NHD, k_NKD, v_NKD, cache.k, cache.v, rows, scale)
        return merge_attention(*own, *plain.attend_prefix(q_NHD, prefix, scale), has_prefix_N)

    def calls(
        self, layer: int, q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, scale: float, out_NHD: Tensor
    ) -> list[KernelCall]:
        cache, prefix = self._cache.layers[layer], self._prefix(layer)
        lse_NH, *other = self._memory.like(q_NHD)
        calls = [cpu_decode.attend_call(q_NHD, k_NKD, v_NKD, cache.k, cache.v, scale, out_NHD, lse_NH)]
        if prefix is not None:
            other_NHD, other_lse_NH = other
            calls.append(cpu_prefill.prefix_call(q_NHD, prefix, scale, (other_NHD, other_lse_NH)))
            calls.append(merge_call(out_NHD, lse_NH, other_NHD, other_lse_NH))
        return calls

    def set_step(self, layer: int, calls: Sequence[KernelCall]) -> None:
        cache, prefix = self._cache.layers[layer], self._prefix(layer)
        plain.close_windows(self._layout, cache)
        rows = self._layout.decode_rows(cache.shape.kind)
        cpu_decode.set_rows(calls[0], rows)
        if prefix is not None:
            cpu_prefill.set_num_rows(calls[1], rows.num_rows, prefix)
            calls[2].set_num_rows(rows.num_rows)
            calls[2].arguments.has_other = address(self._layout.prefix_rows)


class _CpuPrefill(_CpuStep):
    def __init__(self, layout: StepLayout, cache: KVCache) -> None:
        super().__init__(layout, cache)
        self._chunks: dict[LayerKind, PrefillChunks] = {}

    def attend(self, layer: int, q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, scale: float) -> Tensor:
        out_NHD = torch.zeros(q_NHD.shape, dtype=q_NHD.dtype)
        self._run(layer, self.calls(layer, q_NHD, k_NKD, v_NKD, scale, out_NHD))
        return out_NHD

    def calls(
        self, layer: int, q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, scale: float, out_NHD: Tensor
    ) -> list[KernelCall]:
        results = out_NHD, self._memory.like(q_NHD)[0]
        cache = self._cache.layers[layer]
        return [cpu_prefill.attend_call(q_NHD, k_NKD, v_NKD, cache, scale, self._prefix(layer), results)]

    def set_step(self, layer: int, calls: Sequence[KernelCall]) -> None:
        cache, prefix = self._cache.layers[layer], self._prefix(layer)
        kind = cache.shape.kind
        if kind not in self._chunks:
            num_prefix = prefix.k.shape[1] if prefix else 0
            self._chunks[kind] = build_chunks(self._layout.contexts, cache, num_prefix=num_prefix)
        (call,) = calls
        cpu_prefill.set_chunks(call, self._chunks[kind].table, cache, prefix)


class _Memory:
    """What the calls of a step's layers need beside their results: the same memory, as they run one after the other."""

    def __init__(self) -> None:
        self._of_shape: dict[torch.Size, tuple[Tensor, Tensor, Tensor]] = {}

    def like(self, q_NHD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-sum-exps of scores, float32 [N, H]; attention over the prefix, [N, H, D], and its own log-sum-exps."""
        if q_NHD.shape not in self._of_shape:
            lse_NH, other_lse_NH = (torch.empty(q_NHD.shape[:2]) for _ in range(2))
            self._of_shape[q_NHD.shape] = lse_NH, q_NHD.new_empty(q_NHD.shape), other_lse_NH
        return self._of_shape[q_NHD.shape]


def merge_call(out_NHD: Tensor, lse_NH: Tensor, other_NHD: Tensor, other_lse_NH: Tensor) -> KernelCall:
    """Prepare the merge of attention over two sets of keys, as `merge_attention` does it, into `out_NHD`. All are
    contiguous; float32 or bfloat16, the log-sum-exps float32.

    Its arguments `num_rows` and `has_other`, bool [N], are those of a step.
    """
    kernel = load_kernel("merge_attention")
    assert kernel is not None
    tensors = (out_NHD, other_NHD, lse_NH, other_lse_NH)
    arguments = MergeArguments(*map(address, (*tensors, None)), 0, *out_NHD.shape[1:])
    return KernelCall(getattr(kernel, f"merge_attention_{ELEMENT_TYPES[out_NHD.dtype]}"), arguments, tensors)


class MergeArguments(ctypes.Structure):
    """The structure `arguments` of `kernels/merge_attention.c`, field by field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("out", "other", "lse", "other_lse", "has_other")),
        *((name, ctypes.c_int64) for name in ("num_rows", "num_heads", "dim")),
    )
