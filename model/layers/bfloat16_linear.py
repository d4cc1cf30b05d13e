"""A bfloat16 linear layer by a C kernel of ours (`kernels/linear_bf16.c`), for CPUs with AVX512-BF16.

With 1 to 16 rows it takes 0.5 to 0.75 of oneDNN's time, with 64 rows 0.85 to 0.95, and with more about as much.
"""

from __future__ import annotations

import torch

from tirazh.model.layers.kernel_linear import KernelLinear


class Bfloat16Linear(KernelLinear):
    """A linear layer of bfloat16 whose products are those of AVX512-BF16: of pairs of inputs."""

    kernel, dtype, input_unit, has_float_out = "linear_bf16", torch.bfloat16, 2, True
