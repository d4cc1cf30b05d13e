"""Memory and time of a job before it is started, from the model's shape and the estimated tokens. Pure arithmetic.

Memory is counted; time is an interval, because nobody has measured this machine yet. Called by `tirazh plan` and
`--dry-run`.
"""

from __future__ import annotations

import os
from math import prod
from typing import Any

from tirazh.model.config import ModelConfig, expected_shapes
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.spec import GenerateSpec, JobSpec, parse_replicas

ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Arithmetic one rank reaches, in FLOP/s, (slowest, fastest) that we expect: one CPU core, one GPU.
CPU_CORE_SPEED = (4e9, 8e10)
GPU_SPEED = (1e13, 3e14)
# A decode step costs at least so much however small the model is: (at best, at worst) in seconds.
STEP_S = {"cpu": (0.002, 0.05), "cuda": (0.001, 0.02)}
# Ray, the replica's process, libraries and weights.
START_S = (8.0, 60.0)


def estimate(plan: Plan, spec: JobSpec) -> dict[str, Any]:
    """Bytes of one rank (weights and cache) and seconds of the whole job, as [low, high]; empty for a model whose
    shape we do not know."""
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
    """Weights of the model, the tied output counted once."""
    return sum(prod(shape) for shape in expected_shapes(config).values())


def cache_bytes(config: ModelConfig, length: int, item_bytes: int) -> int:
    """Most bytes of keys and values that one sequence holds while it grows to `length` tokens."""
    sparse = config.sparse_pattern.most_tokens_kept(length)
    kept = sum(sparse if config.is_sparse_layer(layer) else length for layer in range(config.num_layers))
    return 2 * kept * config.hidden_size * item_bytes


def _device(spec: JobSpec) -> str:
    return "cuda" if spec.device == "cuda" else "cpu"


def _seconds(plan: Plan, spec: JobSpec, parameters: int) -> list[float]:
    device = _device(spec)
    replicas = min(parse_replicas(spec.replicas)[1], len(plan.parts))
    ranks = replicas * spec.tensor_parallel
    units = ranks if device == "cuda" or spec.address else len(os.sched_getaffinity(0))
    slow, fast = GPU_SPEED if device == "cuda" else CPU_CORE_SPEED
    work = 2 * parameters * plan.estimated_tokens / units
    steps = 0.0
    if isinstance(spec, GenerateSpec):
        steps = plan.rows * spec.samples * spec.max_new_tokens / (spec.slots_on(device) * replicas)
    low = START_S[0] + max(work / fast, steps * STEP_S[device][0])
    high = START_S[1] + work / slow + steps * STEP_S[device][1]
    return [round(low), round(high)]
