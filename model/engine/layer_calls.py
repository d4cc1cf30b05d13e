"""Runs the layers of a ruGPT-3 on a CPU by lists of prepared calls: on one rank by one call from Python for each layer.

A layer is seven kernels, some of them of a few microseconds in a step of few rows. Called through torch's modules they
cost Python's time and a new tensor each; here their calls are prepared once, with buffers that all steps use. The bits
are those of the modules, because the kernels are the same. Linears that add up results of several ranks or chunks do
so between two lists; ranks may therefore run calls while others run modules.

Legend: N rows of a step, C channels, H heads on this rank, D head dim.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from tirazh.model.attention.backends.cpu import CpuBackend
from tirazh.model.attention.backends.interface import HeadType, PreparedAttention
from tirazh.model.kernels.build import load_kernel
from tirazh.model.kernels.calls import Call, CallList, KernelCall
from tirazh.model.layers.add_norm import add_norm_call, has_add_norm_kernel
from tirazh.model.layers.prepared_linear import PreparedLinear, Workspace, has_calls
from tirazh.model.transformer import RuGPT3Attention, RuGPT3Layer, Transformer

_FEWEST = 64  # rows for which there is memory at least


class LayerCalls:
    """The prepared calls of a model for which `can_prepare`. One thread at a time may run them."""

    def __init__(self, model: Transformer) -> None:
        self._model = model
        self._head_dim = model.attentions[0].head_dim
        self._layers: list[_Layer] = []
        self._last: KernelCall | None = None
        self._capacity = self._num_rows = 0
        self._hidden = self._normed = self._update = self._qkv = torch.empty(0)

    def run(
        self, token_ids_N: Tensor, positions_N: Tensor, attention: PreparedAttention, on_layer: Callable[[], object]
    ) -> Tensor:
        """Last hidden states [N, C] of token ids and positions, int64 [N]. The next call overwrites them.

        `on_layer` is called after every layer. Raises MemoryError.
        """
        num_rows = len(token_ids_N)
        if num_rows > self._capacity:
            self._prepare(max(num_rows, _FEWEST))
        assert self._last is not None
        if num_rows != self._num_rows:
            for each in self._layers:
                each.set_rows(num_rows)
            self._last.set_rows(num_rows)
            self._num_rows = num_rows
        for embedding, index, out in (
            (self._model.embed_tokens, token_ids_N, self._hidden),
            (self._model.embed_positions, positions_N, self._update),
        ):
            torch.index_select(embedding.weight, 0, index, out=out[:num_rows])
        q, k, v = (x.view(num_rows, -1, self._head_dim) for x in self._qkv[:num_rows].chunk(3, dim=-1))
        for layer in self._layers:
            layer.run(attention, q, k, v)
            on_layer()
        self._last.run()
        return self._normed[:num_rows]

    def _prepare(self, capacity: int) -> None:
        weight = self._model.embed_tokens.weight
        layers = cast(list[RuGPT3Layer], list(self._model.layers))
        qkv_proj, up_proj = (cast(PreparedLinear, x) for x in (layers[0].self_attn.qkv_proj, layers[0].mlp.up_proj))
        size = weight.shape[1]

        def buffer(num_columns: int) -> Tensor:
            return torch.zeros(capacity, num_columns, dtype=weight.dtype)

        self._hidden, self._normed, self._update = (buffer(size) for _ in range(3))
        self._qkv, inner = buffer(qkv_proj.out_features), buffer(up_proj.out_features)
        attended = buffer(qkv_proj.out_features // 3)
        workspace = Workspace(capacity)

        def multiply(linear: object, x: Tensor, out: Tensor) -> list[Call]:
            return cast(PreparedLinear, linear).prepare(x, out, workspace)

        self._layers = []
        for layer in layers:
            attention, mlp = layer.self_attn, layer.mlp
            norms = (layer.input_layernorm, layer.post_attention_layernorm)
            first, second = (add_norm_call(self._hidden, self._update, n, self._hidden, self._normed) for n in norms)
            before = [first, *multiply(attention.qkv_proj, self._normed, self._qkv)]
            after = [*multiply(attention.o_proj, attended, self._update), second]
            after += [*multiply(mlp.up_proj, self._normed, inner), *multiply(mlp.down_proj, inner, self._update)]
            self._layers.append(_Layer(attention, before, after, attended))
        self._last = add_norm_call(self._hidden, self._update, self._model.norm, self._hidden, self._normed)
        self._capacity, self._num_rows = capacity, 0


class _Layer:
    """The calls of a layer: those before its attention, those of its attention, which are new in every step, and those
    behind it."""

    def __init__(self, attention: RuGPT3Attention, before: list[Call], after: list[Call], attended: Tensor) -> None:
        self._attention, self._before, self._after, self._attended = attention, before, after, attended
        self._lists: dict[int, CallList] = {}  # by the number of the attention's calls

    def set_rows(self, num_rows: int) -> None:
        for call in (*self._before, *self._after):
            call.set_rows(num_rows)

    def run(self, attention: PreparedAttention, q_NHD: Tensor, k_NHD: Tensor, v_NHD: Tensor) -> None:
        out_NHD = self._attended[: len(q_NHD)].view(q_NHD.shape)
        layer, scaling = self._attention.layer_idx, self._attention.scaling
        calls = attention.calls(layer, q_NHD, k_NHD, v_NHD, scaling, out_NHD)
        if len(calls) not in self._lists:
            self._lists[len(calls)] = CallList([*self._before, *calls, *self._after])
        prepared = self._lists[len(calls)]
        for index, call in enumerate(calls):
            prepared[len(self._before) + index] = call
        prepared.run()


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
