"""`--dtype auto`: runs the model's probe on a machine of the cluster, where the replicas will be. Imports no torch."""

from __future__ import annotations

import ray
from ray.exceptions import RayError

from tirazh.actors.messages import DType
from tirazh.errors import JobError

_TIMEOUT_S = 300.0


def resolve_dtype(device: str) -> DType:
    """The arithmetic that is fastest there: "float32", "bfloat16" or "float16". Raises JobError."""
    task = ray.remote(_probe).options(num_cpus=1, num_gpus=1 if device == "cuda" else 0, max_retries=2)
    try:
        settled: DType = ray.get(task.remote(device), timeout=_TIMEOUT_S)
    except (RayError, TimeoutError) as error:
        raise JobError(f"--dtype auto could not be settled ({type(error).__name__}); name one") from error
    return settled


def _probe(device: str) -> str:
    from tirazh.model.layers.dtype_probe import resolve_dtype as probe

    return probe(device)
