"""A float32 linear layer by a C kernel of ours (`kernels/linear_float.c`), for CPUs with AVX2 or AVX-512."""

from __future__ import annotations

import torch

from tirazh.model.layers.kernel_linear import KernelLinear


class FloatLinear(KernelLinear):
    """A linear layer of float32 with any number of inputs."""

    kernel, dtype, input_unit = "linear_float", torch.float32, 1
