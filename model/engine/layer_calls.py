"""Runs the layers of a ruGPT-3 on a CPU by prepared calls: on one rank by one call from Python for a step.

A layer is seven kernels, some of them of a few microseconds in a step of few rows. Called through torch's modules they
cost Python's time and a new tensor each; here their calls are prepared once, with buffers that all steps use, and a
step sets its rows in them. The bits are those of the modules, because the kernels are the same. Linears that add up
results of several ranks or chunks do so between two kernels; ranks may therefore run calls while others run modules.

Legend: N rows of a step, C channels, H heads on this rank, D head dim.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from tirazh.model.attention.backends.cpu import CpuBackend
from tirazh.model.attention.backends.interface import HeadType, PreparedAttention
from tirazh.model.attention.kv_cache import KVCache, PrefixCache
from tirazh.model.kernels.build import load_kernel
from tirazh.model.kernels.calls import Call, CallList, KernelCall
from tirazh.model.layers.add_norm import add_norm_call, has_add_norm_kernel
from tirazh.model.layers.prepared_linear import PreparedLinear, Workspace, has_calls
from tirazh.model.step import Phase
from tirazh.model.transformer import RuGPT3Attention, RuGPT3Layer, Transformer

_FEWEST = 64  # rows for which there is memory at least


class LayerCalls:
    """The prepared calls of a model for which `can_prepare`. One thread at a time may run them."""

    def __init__(self, model: Transformer) -> None:
        self._model = model
        self._head_dim = model.attentions[0].head_dim
        self._capacity = self._num_rows = 0
        self._buffers: _Buffers | None = None
        self._layers: list[_Layer] = []
        self._last: KernelCall | None = None
        # By the shared prefix (the cache where no row has one), the cache and the phase. Calls hold the memory of both,
        # and live no longer than they do.
        self._programs: _Programs = WeakKeyDictionary()

    def run(
        self, token_ids_N: Tensor, positions_N: Tensor, attention: PreparedAttention, on_progress: Callable[[], object]
    ) -> Tensor:
        """Last hidden states [N, C] of token ids and positions, int64 [N]. The next call overwrites them.

        `on_progress` is called at the end, and before that every 50 milliseconds, or after every kernel that takes
        longer. Raises MemoryError.
        """
        num_rows = token_ids_N.shape[0]
        if num_rows > self._capacity:
            self._prepare(max(num_rows, _FEWEST))
        buffers = self._buffers
        assert buffers is not None
        if num_rows != self._num_rows:
            self._set_num_rows(num_rows)
        for embedding, index, out in (
            (self._model.embed_tokens, token_ids_N, buffers.hidden),
            (self._model.embed_positions, positions_N, buffers.update),
        ):
            torch.index_select(embedding.weight, 0, index, out=out[:num_rows])
        program = self._program(attention)
        for layer, calls in program.attentions:
            attention.set_step(layer, calls)
        program.calls.run(on_progress)
        return buffers.normed[:num_rows]

    def _set_num_rows(self, num_rows: int) -> None:
        assert self._last is not None
        for call in (*(call for layer in self._layers for call in (*layer.before, *layer.after)), self._last):
            call.set_num_rows(num_rows)
        self._num_rows = num_rows

    def _program(self, attention: PreparedAttention) -> _Program:
        """The calls of a step, without what differs from another step of its form."""
        form = attention.form
        owner = form.cache if form.prefix is None else form.prefix
        programs = self._programs.setdefault(owner, WeakKeyDictionary()).setdefault(form.cache, {})
        if form.phase not in programs:
            programs[form.phase] = self._build_program(attention)
        return programs[form.phase]

    def _build_program(self, attention: PreparedAttention) -> _Program:
        buffers = self._buffers
        assert buffers is not None
        assert self._last is not None
        out = buffers.attended.view(self._capacity, -1, self._head_dim)
        q, k, v = (x.view(self._capacity, -1, self._head_dim) for x in buffers.qkv.chunk(3, dim=-1))
        calls: list[Call] = []
        attentions: list[tuple[int, list[KernelCall]]] = []
        for layer in self._layers:
            index = layer.attention.layer_idx
            attentions.append((index, attention.calls(index, q, k, v, layer.attention.scaling, out)))
            calls += [*layer.before, *attentions[-1][1], *layer.after]
        return _Program(CallList([*calls, self._last]), attentions)

    def _prepare(self, capacity: int) -> None:
        """Prepare the calls of everything but attention, for steps of at most `capacity` rows."""
        weight = self._model.embed_tokens.weight
        layers = cast(list[RuGPT3Layer], list(self._model.layers))
        size, num_qkv, num_inner = weight.shape[1], *_widths(layers[0])
        columns = (size, size, size, num_qkv, num_qkv // 3, num_inner)
        buffers = _Buffers(*(torch.zeros(capacity, count, dtype=weight.dtype) for count in columns))
        workspace = Workspace(capacity)

        def multiply(linear: object, x: Tensor, out: Tensor) -> list[Call]:
            return cast(PreparedLinear, linear).prepare(x, out, workspace)

        def add_norm(norm: nn.LayerNorm) -> KernelCall:
            return add_norm_call(buffers.hidden, buffers.update, norm, buffers.hidden, buffers.normed)

        self._layers = []
        for layer in layers:
            attention, mlp = layer.self_attn, layer.mlp
            before = [add_norm(layer.input_layernorm), *multiply(attention.qkv_proj, buffers.normed, buffers.qkv)]
            after = [
                *multiply(attention.o_proj, buffers.attended, buffers.update),
                add_norm(layer.post_attention_layernorm),
                *multiply(mlp.up_proj, buffers.normed, buffers.inner),
                *multiply(mlp.down_proj, buffers.inner, buffers.update),
            ]
            self._layers.append(_Layer(attention, before, after))
        self._last = add_norm(self._model.norm)
        self._buffers, self._capacity, self._num_rows = buffers, capacity, 0
        self._programs.clear()


@dataclass(frozen=True, slots=True)
class _Buffers:
    """What the kernels read and write, each [capacity, columns]."""

    hidden: Tensor
    normed: Tensor
    update: Tensor  # what a layer adds to the hidden states
    qkv: Tensor
    attended: Tensor
    inner: Tensor


@dataclass(frozen=True, slots=True)
class _Layer:
    """The calls of a layer before its attention and behind it."""

    attention: RuGPT3Attention
    before: list[Call]
    after: list[Call]


@dataclass(frozen=True, slots=True)
class _Program:
    """All calls of steps of one form; of every layer its index and, among them, those of its attention."""

    calls: CallList
    attentions: list[tuple[int, list[KernelCall]]]


_Programs = WeakKeyDictionary[KVCache | PrefixCache, WeakKeyDictionary[KVCache, dict[Phase, _Program]]]


def can_prepare(model: nn.Module) -> bool:
    """Whether kernels of ours run everything in the layers of a `Transformer`, sums over ranks or chunks excepted."""
    if not isinstance(model, Transformer) or not model.layers or load_kernel("run_calls") is None:
        return False
    weight = model.embed_tokens.weight
    layers = cast(list[RuGPT3Layer], list(model.layers))
    heads = {HeadType(weight.dtype, weight.device, layer.self_attn.head_dim) for layer in layers}
    backend = CpuBackend()
    norms = [model.norm, *(norm for each in layers for norm in (each.input_layernorm, each.post_attention_layernorm))]
    return (
        all(backend.supports(each, "decode") and backend.supports(each, "prefill") for each in heads)
        and all(has_add_norm_kernel(norm, weight.dtype) for norm in norms)
        and all(_is_prepared(layer, weight.dtype, weight.shape[1]) for layer in layers)
    )


def _is_prepared(layer: RuGPT3Layer, dtype: torch.dtype, size: int) -> bool:
    attention, mlp = layer.self_attn, layer.mlp
    linears: list[Any] = [attention.qkv_proj, attention.o_proj, mlp.up_proj, mlp.down_proj]
    if not all(has_calls(linear, dtype) for linear in linears) or not isinstance(mlp.activation, nn.Identity):
        return False
    attended, inner = linears[1].in_features, linears[3].in_features  # of this rank
    shapes = [(size, 3 * attended), (attended, size), (size, inner), (inner, size)]
    return [(linear.in_features, linear.out_features) for linear in linears] == shapes


def _widths(layer: RuGPT3Layer) -> tuple[int, int]:
    """How many queries, keys and values a layer has on this rank, and how wide its MLP is."""
    qkv_proj, up_proj = cast(Any, layer.self_attn.qkv_proj), cast(Any, layer.mlp.up_proj)
    return qkv_proj.out_features, up_proj.out_features
