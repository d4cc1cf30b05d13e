"""A linear layer whose bits do not depend on how many tensor-parallel ranks share its inputs
(`--invariant tensor-parallel`).

Only row-parallel layers, whose inputs are shared by the ranks, add in an order that depends on the number of
ranks. Here their inputs are cut into `CHUNKS` equal chunks, each of which is a linear layer of its own, and the
partial results are added in float32 in one tree: (p0 + p1) + (p2 + p3). A rank adds up the chunks that it
holds; the ranks exchange these sums, and each continues in the same tree. Then the bias is added, and the result is
rounded once. In all other layers every output has a chain of sums of its own in our kernels, so a slice of the
outputs has the bits that it has among all of them.

A kernel's result has the dtype of its input. Inputs of 8-bit layers are passed as float32, which changes none of
their integers, so in int8 and float32 the partial results are float32. Those of a bfloat16 layer are rounded to
bfloat16 before they are added, which makes the layer's rounding error about 1.25 times that of a layer that is not
cut. Sums of several ranks are rounded without the option as well.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tirazh.errors import RequestError
from tirazh.model.config import CHUNKS
from tirazh.model.kernels.build import load_kernel
from tirazh.model.kernels.calls import Call, PythonCall
from tirazh.model.layers.int8_linear import Int8Linear
from tirazh.model.layers.packed_linear import rows_are_independent
from tirazh.model.layers.prepared_linear import Workspace, has_calls

# What computes everything but linear layers on a CPU, each head or row by itself.
_OTHER_KERNELS = ("add_norm", "decode_attention", "merge_attention", "prefill_attention")


class ChunkedLinear(nn.Module):
    """`x @ weight.T + bias` for inference, the inputs cut into chunks.

    `pack_linears` replaces the chunks like other linear layers; before it the bits are those of torch.
    """

    bias: Tensor | None

    def __init__(
        self, weight: Tensor, bias: Tensor | None, *, ranks: int = 1, gather: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        """Cut a rank's weight, [out, inputs of this rank], into its share of the chunks; `bias` [out].

        With several ranks `gather` takes this rank's sums, float32 [rows, out], and returns those of all ranks in their
        order, [ranks, rows, out].
        """
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.chunks = nn.ModuleList(_linear(part) for part in weight.detach().chunk(CHUNKS // ranks, dim=1))
        self.register_buffer("bias", None if bias is None else bias.detach().float())
        self._gather = gather

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs of this rank] to [..., out], in the dtype of x. All ranks call this together."""
        rows = x.reshape(-1, self.in_features).to(self._input_dtype(x.dtype))
        shares = rows.chunk(len(self.chunks), dim=1)
        parts = torch.stack([chunk(share.contiguous()) for chunk, share in zip(self.chunks, shares, strict=True)])
        total = add_in_tree(parts)
        if self._gather is not None:
            total = add_in_tree(self._gather(total))
        if self.bias is not None:
            total += self.bias
        return total.to(x.dtype).view(*x.shape[:-1], self.out_features)

    def has_calls(self, dtype: torch.dtype) -> bool:
        return all(has_calls(chunk, self._input_dtype(dtype)) for chunk in self.chunks)

    def prepare(self, x: Tensor, out: Tensor, workspace: Workspace) -> list[Call]:
        chunks: list[Any] = list(self.chunks)
        count, rows, dtype = len(chunks), len(x), self._input_dtype(x.dtype)
        inputs = workspace.tensor("inputs of chunks", count, rows, self.in_features // count, dtype=dtype)
        parts = workspace.tensor("outputs of chunks", count, rows, self.out_features, dtype=dtype)
        calls: list[Call] = [PythonCall(Tensor.copy_, (inputs, x.view(rows, count, -1).transpose(0, 1)))]
        for i, chunk in enumerate(chunks):
            calls += chunk.prepare(inputs[i], parts[i], workspace)
        sums = parts
        if dtype != torch.float32:
            sums = workspace.tensor("sums of chunks", *parts.shape, dtype=torch.float32)
            calls.append(PythonCall(Tensor.copy_, (sums, parts)))
        while len(sums) > 1:
            calls.append(PythonCall(Tensor.add_, (sums[::2], sums[1::2])))
            sums = sums[::2]
        if self._gather is not None:
            calls.append(PythonCall(self._add_other_ranks, (sums[0],)))
        if self.bias is None:
            return [*calls, PythonCall(Tensor.copy_, (out, sums[0]))]
        return [*calls, PythonCall(_add_bias, (out, sums[0], self.bias[None]))]

    def _input_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The dtype in which the chunks take inputs of a dtype, and so that of their results."""
        return torch.float32 if isinstance(self.chunks[0], Int8Linear) else dtype

    def _add_other_ranks(self, own: Tensor) -> None:
        """Let this rank's sums [rows, out] be those of all ranks."""
        assert self._gather is not None
        own.copy_(add_in_tree(self._gather(own)))


def _add_bias(out: Tensor, total: Tensor, bias: Tensor) -> None:
    torch.add(total, bias, out=out)


def add_in_tree(parts: Tensor) -> Tensor:
    """Add neighbours of parts [parts, ...], then neighbouring sums, and so on, in float32. There are a power of two.

    The sum is float32; parts of this dtype may be overwritten.
    """
    while len(parts) > 1:
        parts = parts[::2].float().add_(parts[1::2])
    return parts[0].float()


def check_own_kernels(model: nn.Module, dtype: str) -> None:
    """Raise RequestError for a packed model of which a library computes a part: its bits depend on shapes, and so on
    the number of ranks."""
    if rows_are_independent(model) and all(load_kernel(name) is not None for name in _OTHER_KERNELS):
        return
    others = " or ".join(each for each in ("float32", "int8") if each != dtype)
    raise RequestError(
        f"--invariant tensor-parallel: on the machine {platform.node()} tirazh has no kernels for --dtype {dtype}, and "
        f"those of other libraries round by the number of ranks; give --dtype {others} on a machine with AVX2 and a C "
        "compiler, or leave --invariant out"
    )


def _linear(weight: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    return linear
