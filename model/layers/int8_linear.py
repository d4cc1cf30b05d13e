"""A linear layer of 8-bit integers (`--dtype int8`), by a C kernel of ours (`kernels/linear_int8.c`) or by torch.

Groups of 128 inputs are rounded to 8 bits with a scale of their own: of the weight for every output once, and of each
row when the layer runs. Trained models have a few inputs that are many times as
large as the others: such an input spoils the precision of its own group only, and a group that it would
spoil is multiplied a second time, with what rounding left over. Sums of a group are exact integers;
scaling, bias and GELU are float32. The result has the dtype of the input.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor, nn

from tirazh.errors import RequestError
from tirazh.model.cpu_features import may_multiply_bfloat16
from tirazh.model.huge_pages import empty_in_huge_pages
from tirazh.model.kernels.build import load_kernel
from tirazh.model.kernels.calls import Call, KernelCall, address
from tirazh.model.layers.kernel_linear import Activation
from tirazh.model.layers.prepared_linear import Workspace

GROUP = 128  # inputs that share a scale (GROUP of the kernel)
_LARGEST = 127
_FEW = 10  # a group with a mean absolute value below it in 8 bits is multiplied twice
_FINER = 2 * _LARGEST  # how many times as fine the second rounding is
_TINIEST = 1e-30  # a group of smaller inputs counts as zero
_ROWS_AT_ONCE = 512  # of a weight that is rounded


class Int8Linear(nn.Module):
    """`activation(x @ weight.T + bias)` for inference on a CPU, GELU in its tanh approximation.

    A row's bits depend on that row alone where the kernel runs (`has_kernel`). A row with a NaN or an infinity is NaN
    as a whole. With the kernel `weight` is packed, and `scales` float32 [panels, groups, outputs of a panel].
    """

    weight: Tensor
    scales: Tensor
    starts: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, *, activation: Activation = "none") -> None:
        """Round the weight [out, in], of any floating dtype; `bias` [out]."""
        super().__init__()
        if not can_round(weight):
            raise ValueError(f"no weight for 8 bits: {weight.dtype} {list(weight.shape)} on {weight.device}")
        self.out_features, self.in_features = weight.shape
        self.activation = activation
        rounded, scales = round_weight(weight.detach())
        kernel = load_kernel("linear_int8")
        self.has_kernel = kernel is not None
        starts = torch.empty(0, dtype=torch.int32)
        if kernel is not None:
            panel = kernel.panel_size()
            num_panels, num_words = -(-self.out_features // panel), -(-self.in_features // 4)
            packed = empty_in_huge_pages((num_panels * panel, num_words * 4), torch.int8)
            starts = torch.empty(num_panels, self._num_groups(), panel, dtype=torch.int32)
            kernel.pack_weight(
                ctypes.c_void_p(rounded.data_ptr()),
                ctypes.c_int64(self.in_features),
                ctypes.c_int64(self.out_features),
                ctypes.c_void_p(packed.data_ptr()),
                ctypes.c_void_p(starts.data_ptr()),
                ctypes.c_int(torch.get_num_threads()),
            )
            rounded = packed
            padded = nn.functional.pad(scales, (0, 0, 0, num_panels * panel - self.out_features))
            scales = padded.view(num_panels, panel, -1).transpose(1, 2).contiguous()
        self.register_buffer("weight", rounded)
        self.register_buffer("scales", scales)
        self.register_buffer("starts", starts)
        self.register_buffer("bias", None if bias is None else bias.detach().float().contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out], in the dtype of x: float32 or bfloat16. Raises ValueError for other inputs."""
        if x.dtype not in (torch.float32, torch.bfloat16) or x.shape[-1] != self.in_features:
            raise ValueError(
                f"the input must be float32 or bfloat16 [..., {self.in_features}], got {x.dtype} {list(x.shape)}"
            )
        if not self.has_kernel:
            return self._by_torch(x)
        x = x.contiguous()
        out = x.new_empty(*x.shape[:-1], self.out_features)
        self.call(x, out, self.scratch(x.numel() // self.in_features)).run()
        return out

    def has_calls(self, dtype: torch.dtype) -> bool:
        return self.has_kernel and dtype in (torch.float32, torch.bfloat16)

    def prepare(self, x: Tensor, out: Tensor, workspace: Workspace) -> list[Call]:
        scratch = workspace.shared(("int8", self.in_features), lambda: self.scratch(workspace.num_rows))
        return [self.call(x, out, scratch)]

    def scratch(self, num_rows: int) -> tuple[Tensor, ...]:
        """The memory that a call of so many rows needs for their inputs in 8 bits. Layers with as many inputs may
        share it."""
        kernel = load_kernel("linear_int8")
        assert kernel is not None
        block = kernel.rows_of_block()
        row_bytes = torch.empty(2, -(-num_rows // block) * block, -(-self.in_features // 4) * 4, dtype=torch.uint8)
        return row_bytes, torch.empty(2, num_rows, self._num_groups())

    def call(self, x: Tensor, out: Tensor, scratch: tuple[Tensor, ...]) -> KernelCall:
        """Prepare the multiplication of x [..., in], float32 or bfloat16, into `out` [..., out] of the same dtype; both
        contiguous. For layers that have the kernel."""
        kernel = load_kernel("linear_int8")
        assert kernel is not None
        tensors = (x, self.bias, self.scales, self.weight, self.starts, out, *scratch)
        arguments = Int8Arguments(
            *map(address, tensors),
            *(x.numel() // self.in_features, self.in_features, self.out_features),
            *(int(self.activation == "gelu"), int(x.dtype == torch.bfloat16)),
        )
        return KernelCall(kernel.linear_int8, arguments, tensors)

    def _num_groups(self) -> int:
        return -(-self.in_features // GROUP)

    def _by_torch(self, x: Tensor) -> Tensor:
        """The same integers without the kernel; the sums of a group are below 2^24, so float32 holds them exactly."""
        rounded = round_rows(x.reshape(-1, self.in_features).float())
        out = torch.zeros(len(rounded[0][0]), self.out_features)
        for group in range(self._num_groups()):
            inputs = slice(group * GROUP, (group + 1) * GROUP)
            for rows, scales in rounded:
                product = (rows[:, inputs].float() @ self.weight[:, inputs].float().T) * self.scales[:, group]
                out += product * scales[:, group : group + 1]
        if self.bias is not None:
            out += self.bias
        if self.activation == "gelu":
            out = nn.functional.gelu(out, approximate="tanh")
        return out.to(x.dtype).view(*x.shape[:-1], -1)


class Int8Arguments(ctypes.Structure):
    """The structure `linear_arguments` of the kernel, field by field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "bias", "scales", "weight", "starts", "out")),
        *((name, ctypes.c_void_p) for name in ("bytes", "row_scales")),
        *((name, ctypes.c_int64) for name in ("num_rows", "num_inputs", "num_outputs", "is_gelu", "is_bf16")),
    )


def activation_dtype() -> torch.dtype:
    """The dtype of all but the products of linear layers: bfloat16 where this CPU multiplies it, else float32."""
    is_supported = may_multiply_bfloat16() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if is_supported else torch.float32


def check_all_int8(model: nn.Module) -> None:
    """Raise RequestError for a model with matrices that are not those of an `Int8Linear` or of an embedding."""
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.dim() > 1 and not isinstance(module, Int8Linear | nn.Embedding):
            raise RequestError(
                f"--dtype int8 cannot run this model: its layer {name} is a {type(module).__name__}, which cannot be "
                "rounded to 8 bits; give another --dtype"
            )


def can_round(weight: Tensor) -> bool:
    """Whether a weight can be that of an `Int8Linear`."""
    return weight.device.type == "cpu" and weight.is_floating_point() and weight.dim() == 2 and weight.numel() > 0


def round_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round a weight [out, in] to int8. Returns it and its scales, float32 [out, groups].

    A weight is at most half a scale off. The scale of a group whose weights are not all finite is NaN.
    """
    num_outputs, num_inputs = weight.shape
    num_groups = -(-num_inputs // GROUP)
    rounded, scales = torch.empty(weight.shape, dtype=torch.int8), torch.empty(num_outputs, num_groups)
    for start in range(0, num_outputs, _ROWS_AT_ONCE):  # so that little of it is in float32 at a time
        some = slice(start, start + _ROWS_AT_ONCE)
        padded = nn.functional.pad(weight[some].float(), (0, num_groups * GROUP - num_inputs))
        values, of_groups = _round(padded.view(-1, GROUP))
        rounded[some] = values.view(len(padded), -1)[:, :num_inputs]
        scales[some] = of_groups.view(len(padded), -1)
    return rounded, scales


def round_rows(x: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Round activations, float32 [rows, in], as the kernel does: int8 [rows, in] and float32 scales [rows, groups].

    The second pair is what rounding left over of groups whose largest input is far above the others; the scales of
    all other groups are 0.
    """
    firsts, rests = [], []
    for part in x.split(GROUP, dim=1):
        rounded, scales = _round(part)
        firsts.append((rounded, scales))
        left = part - rounded * scales[:, None]
        has_few = (rounded.int().abs().sum(dim=1) < _FEW * part.shape[1]) & (scales > 0)
        most = torch.full_like(scales, _LARGEST)
        inverse = torch.where(has_few, most / part.abs().amax(dim=1) * _FINER, 0.0)
        rest = torch.where(has_few[:, None], left * inverse[:, None], 0.0).round().to(torch.int8)
        rests.append((rest, torch.where(has_few, scales / torch.full_like(scales, _FINER), 0.0)))
    return _joined(firsts), _joined(rests)


def _joined(groups: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.cat([values for values, _ in groups], dim=1), torch.stack([scales for _, scales in groups], dim=1)


def _round(values: Tensor) -> tuple[Tensor, Tensor]:
    largest = values.abs().amax(dim=1)  # NaN where a value is
    is_finite, is_tiny = largest.isfinite(), largest < _TINIEST
    most = torch.full_like(largest, _LARGEST)  # with a number torch multiplies by an inverse, which rounds otherwise
    inverse = torch.where(is_finite & ~is_tiny, most / largest, 0.0)
    scales = torch.where(is_finite, torch.where(is_tiny, 0.0, largest / most), torch.nan)
    rounded = torch.where(is_finite[:, None], values, 0.0) * inverse[:, None]
    return rounded.round().to(torch.int8), scales
