"""Residual addition and LayerNorm in one pass over memory, in Triton.

`model/layers/add_norm.py` launches it.
"""

# ruff: noqa: PLR0913 - a kernel has as many arguments as it reads
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def add_norm(hidden, update, weight, bias, total, normed, size, eps, C: tl.constexpr):
    """One row. The sum is rounded to its stored dtype before it is normalised; mean and variance
    are float32."""
    row = tl.program_id(0).to(tl.int64) * size
    c = tl.arange(0, C)
    is_in = c < size
    x = tl.load(hidden + row + c, mask=is_in, other=0.0) + tl.load(update + row + c, mask=is_in, other=0.0)
    tl.store(total + row + c, x, mask=is_in)
    x = x.to(tl.float32)
    mean = tl.sum(x, 0) / size
    centred = tl.where(is_in, x - mean, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, 0) / size + eps)
    w = tl.load(weight + c, mask=is_in, other=0.0).to(tl.float32)
    b = tl.load(bias + c, mask=is_in, other=0.0).to(tl.float32)
    tl.store(normed + row + c, (centred * scale * w + b).to(normed.dtype.element_ty), mask=is_in)
