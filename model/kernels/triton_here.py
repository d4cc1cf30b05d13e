"""Whether Triton kernels can run here: on a GPU, or in Triton's interpreter on a CPU (slow, for
tests)."""

from __future__ import annotations

import functools
import importlib.util
import os

import torch


def runs_triton(device: torch.device) -> bool:
    """Whether Triton kernels run on a device; on a CPU only with TRITON_INTERPRET=1."""
    return (device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1") and _has_triton()


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
