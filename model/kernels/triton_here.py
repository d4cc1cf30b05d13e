"""Whether kernels in Triton run here: on a GPU, or by its interpreter on a CPU, slowly, to be checked there."""

from __future__ import annotations

import functools
import importlib.util
import os

from torch import Tensor


def runs_triton(where: Tensor) -> bool:
    """Whether they run where a tensor lies; on a CPU only with TRITON_INTERPRET=1."""
    return (where.is_cuda or os.environ.get("TRITON_INTERPRET") == "1") and _has_triton()


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
