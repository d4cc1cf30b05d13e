"""Estimates memory and time of a job before it starts, from the model's shape and the estimated tokens.

Memory is exact; time is an interval, because the speed of the machine is not known.
"""

from __future__ import annotations

from math import prod
from typing import Any

from tirazh.actors.cores import usable_cores
from tirazh.model.config import ModelConfig, expected_shapes
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.spec import GenerateSpec, JobSpec, parse_replicas

ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# FLOP/s that one CPU core or one GPU reaches: (slowest, fastest) that we expect.
CPU_CORE_SPEED = (4e9, 8e10)
GPU_SPEED = (1e13, 3e14)
# The minimum duration of a decode step, however small the model is: (best, worst) case in seconds.
STEP_S = {"cpu": (0.002, 0.05), "cuda": (0.001, 0.02)}
# Seconds until a replica serves: start of Ray and of the replica's process, imports, loading the
# weights.
START_S = (8.0, 60.0)


def estimate(plan: Plan, spec: JobSpec) -> dict[str, Any]:
    """Estimate the bytes of one rank (weights and KV cache) and the seconds of the whole job, as [low, high].

    Empty for a model that is not a ruGPT-3, whose shape is unknown.
    """
    if plan.model is None or plan.model.config is None:
        return {}
    config = plan.model.config
    item = ITEM_BYTES.get(plan.dtype, 2 if spec.device == "cuda" else 4)
    slots = spec.slots_on(_device(spec))
    parameters = count_parameters(config)
    return {
        "parameters": parameters,
        "rank_weight_bytes": parameters * item // spec.tensor_parallel,
        "rank_cache_bytes": cache_bytes(config, plan.seq_length, item) * slots // spec.tensor_parallel,
        "time_s": _seconds(plan, spec, parameters),
    }


def count_parameters(config: ModelConfig) -> int:
    """The number of parameters; the embedding that is tied to the output is counted once."""
    return sum(prod(shape) for shape in expected_shapes(config).values())


def cache_bytes(config: ModelConfig, length: int, item_bytes: int) -> int:
    """The maximum bytes of keys and values of one sequence while it grows to `length` tokens."""
    sparse = config.sparse_pattern.most_tokens_kept(length)
    kept = sum(sparse if config.is_sparse_layer(layer) else length for layer in range(config.num_layers))
    return 2 * kept * config.hidden_size * item_bytes


def _device(spec: JobSpec) -> str:
    return "cuda" if spec.device == "cuda" else "cpu"


def _seconds(plan: Plan, spec: JobSpec, parameters: int) -> list[float]:
    device = _device(spec)
    replicas = min(parse_replicas(spec.replicas)[1], len(plan.parts))
    ranks = replicas * spec.tensor_parallel
    units = ranks if device == "cuda" or spec.address else usable_cores()
    slow, fast = GPU_SPEED if device == "cuda" else CPU_CORE_SPEED
    work = 2 * parameters * plan.estimated_tokens / units
    steps = 0.0
    if isinstance(spec, GenerateSpec):
        steps = plan.rows * spec.samples * spec.max_new_tokens / (spec.slots_on(device) * replicas)
    low = START_S[0] + max(work / fast, steps * STEP_S[device][0])
    high = START_S[1] + work / slow + steps * STEP_S[device][1]
    return [round(low), round(high)]
