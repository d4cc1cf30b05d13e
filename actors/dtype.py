"""`--dtype auto`: probe which dtype is fastest on a machine of the cluster that replicas will run
on. Imports no torch; the task on that machine does where the answer has to be measured. A CPU is measured once: its
answer is kept."""

from __future__ import annotations

import ray
from ray.exceptions import RayError

from tirazh.actors.messages import DType
from tirazh.errors import JobError
from tirazh.model.cpu_features import may_multiply_bfloat16
from tirazh.model.kernels.known_dtype import keep_dtype, known_dtype

_TIMEOUT_S = 600.0  # the probe may have to compile a kernel


def resolve_dtype(device: str) -> DType:
    """Return the fastest dtype for a device type ("cpu" or "cuda"): "float32", "bfloat16" or
    "float16".

    Raises JobError when the probe fails or takes longer than ten minutes.
    """
    task = ray.remote(_probe).options(num_cpus=1, num_gpus=1 if device == "cuda" else 0, max_retries=2)
    try:
        dtype: DType = ray.get(task.remote(device), timeout=_TIMEOUT_S)
    except (RayError, TimeoutError) as error:
        reason = type(error).__name__
        raise JobError(f"--dtype auto could not be resolved ({reason}): set --dtype to one dtype") from error
    return dtype


def _probe(device: str) -> str:
    if device == "cpu" and not may_multiply_bfloat16():
        return "float32"  # as measured, without the seconds that the import of torch takes
    known = known_dtype() if device == "cpu" else None
    if known is not None:
        return known
    from tirazh.model.layers.dtype_probe import resolve_dtype as probe

    dtype = probe(device)
    if device == "cpu":
        keep_dtype(dtype)
    return dtype
