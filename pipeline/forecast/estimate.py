"""Estimates memory and time of a job before it starts.

Memory follows from the model's shape and the lengths of the prompts. Time is an interval: a narrow one where a speed
was measured, by the last run of the output or by a preview, else a wide one, because the speed of the machine is not
known.
"""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass
from math import prod
from typing import Any

from tirazh.actors.cores import usable_cores
from tirazh.model.config import ModelConfig, expected_shapes
from tirazh.model.cpu_features import may_multiply_bfloat16
from tirazh.pipeline.forecast.history import LastRun
from tirazh.pipeline.forecast.workload import Workload
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.spec import GenerateSpec, JobSpec, parse_replicas

ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# A weight in 8 bits, and beside 128 of one output a scale and a sum of 4 bytes each (`model/kernels/linear_int8.c`).
_INT8_BYTES = 1 + 8 / 128
# FLOP/s that one CPU core or one GPU reaches: (slowest, fastest) that we expect.
CPU_CORE_SPEED = (4e9, 8e10)
GPU_SPEED = (1e13, 3e14)
# The minimum duration of a decode step, however small the model is: (best, worst) case in seconds.
STEP_S = {"cpu": (0.002, 0.05), "cuda": (0.001, 0.02)}
# Seconds until a replica serves: start of Ray and of the replica's process, imports, loading the
# weights.
START_S = (8.0, 60.0)
# The same on an idle machine: Ray alone, and a replica of a small model.
RAY_START_S, REPLICA_START_S = 6.0, 10.0
# What a probe, which runs in this process, does not see of a replica's start: its process, imports, and the check of
# its kernels. Measured with the embedded model on two idle cores.
_PROCESS_START_S = 8.0
# Memory beside weights and cache, as measured (docs/cluster.md): the libraries of a rank with the space for its
# activations, Ray with its actors and idle workers, and the driver.
RANK_BYTES, RAY_BYTES, DRIVER_BYTES = 420 << 20, 1_300 << 20, 200 << 20
# A time that follows from a measured speed is right within this factor, up or down.
_UNCERTAINTY = 1.7
# A head's keys are laid out in whole vectors (`model/attention/kv_cache.py`).
_VECTOR = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredSpeed:
    """Speeds of one replica on this machine, with all of its slots in use: seconds for each token of a prompt that is
    not shared, and for each token that is generated. `start_s` is how long it took to load the model.
    """

    prompt_token_s: float
    new_token_s: float
    start_s: float


def estimate(
    plan: Plan,
    spec: JobSpec,
    workload: Workload,
    *,
    last_run: LastRun | None = None,
    speed: MeasuredSpeed | None = None,
) -> dict[str, Any]:
    """Estimate the bytes of one rank (weights and KV cache) and the seconds of the whole job, as [low, high].

    `machine_memory_bytes` is what a job takes on one machine without GPUs, Ray and the driver included; with an
    address, a machine with one replica and the driver.

    Memory is left out for a model that is not a ruGPT-3, whose shape is unknown, and time as well unless a speed was
    measured. `time_source` says what the time follows from.
    """
    config = plan.model.config if plan.model is not None else None
    facts: dict[str, Any] = {}
    if config is not None:
        parameters = count_parameters(config)
        facts = {
            "parameters": parameters,
            "rank_weight_bytes": weight_bytes(plan, spec) // spec.tensor_parallel,
            "rank_cache_bytes": _cache_bytes(plan, spec, config, workload),
        }
        if _device(spec) == "cpu":
            rank = RANK_BYTES + facts["rank_weight_bytes"] + facts["rank_cache_bytes"]
            ranks = (1 if spec.address else _replicas(plan, spec)) * spec.tensor_parallel
            facts["machine_memory_bytes"] = RAY_BYTES + DRIVER_BYTES + ranks * rank
    if speed is not None:
        return facts | _measured(_by_speed(plan, spec, workload, speed), "the speed measured on this machine")
    if last_run is not None:
        return facts | _measured(_by_last_run(workload, last_run), f"the speed of {last_run.source}")
    if config is not None:
        seconds = _by_size(plan, spec, count_parameters(config), workload)
        facts |= {"time_s": seconds, "time_source": "the size of the model, not a measured speed"}
    return facts


def count_parameters(config: ModelConfig) -> int:
    """The number of parameters; the embedding that is tied to the output is counted once."""
    return sum(prod(shape) for shape in expected_shapes(config).values())


def weight_bytes(plan: Plan, spec: JobSpec) -> int:
    """The bytes of the model's weights in the job's dtype; for a model that is not a ruGPT-3 those of its files."""
    if plan.model is None or plan.model.config is None:
        return plan.model.weight_bytes if plan.model is not None else 0
    config, item = plan.model.config, _item_bytes(plan, spec)
    if plan.dtype != "int8":
        return count_parameters(config) * item
    shapes = expected_shapes(config)
    tables = {name for name in shapes if len(shapes[name]) < 2 or "embed_" in name}
    wide = sum(prod(shapes[name]) for name in tables)
    # The logits' matrix is kept in 8 bits, beside the embedding to which it may be tied.
    head = prod(shapes["model.embed_tokens.weight"]) if config.tie_word_embeddings else 0
    return wide * item + round((count_parameters(config) - wide + head) * _INT8_BYTES)


def cache_bytes(config: ModelConfig, length: int, item_bytes: int) -> int:
    """The maximum bytes of keys and values of one sequence while it grows to `length` tokens."""
    sparse = config.sparse_pattern.most_tokens_kept(length)
    kept = sum(sparse if config.is_sparse_layer(layer) else length for layer in range(config.num_layers))
    return 2 * kept * config.hidden_size * item_bytes


def slot_bytes(config: ModelConfig, length: int, most: int, item_bytes: int) -> int:
    """The bytes of memory that a slot for `most` tokens occupies on a CPU once it has held `length` tokens: whole
    pages, the amount by which sequences are admitted (`KVCache.bytes_taken`)."""
    head_dim, pattern = config.hidden_size // config.num_attention_heads, config.sparse_pattern
    total = 0
    for layer in range(config.num_layers):
        kept, capacity = length, most
        if config.is_sparse_layer(layer):
            kept, capacity = pattern.most_tokens_kept(length), pattern.most_tokens_kept(most)
        size = -(-capacity // _VECTOR) * _VECTOR * head_dim * item_bytes
        unit = math.gcd(size, mmap.PAGESIZE)
        used = -(-kept * head_dim * item_bytes // unit) * unit
        total += 2 * config.num_attention_heads * min(size, used + mmap.PAGESIZE - unit)
    return total


def _cache_bytes(plan: Plan, spec: JobSpec, config: ModelConfig, workload: Workload) -> int:
    """The bytes of one rank's cache. On a GPU all slots are allocated at once, for sequences of any length."""
    item, slots = _item_bytes(plan, spec), spec.slots_on(_device(spec))
    if _device(spec) == "cuda":
        return cache_bytes(config, plan.seq_length, item) * slots // spec.tensor_parallel
    used = min(slots, workload.sequences) * slot_bytes(config, workload.longest, plan.seq_length, item)
    return used // spec.tensor_parallel


def _replicas(plan: Plan, spec: JobSpec) -> int:
    """The most replicas that the job may have."""
    return max(1, min(parse_replicas(spec.replicas)[1], len(plan.parts)))


def cost(plan: Plan, spec: JobSpec, time_s: list[float], price_per_hour: float) -> list[float]:
    """The price of the whole job as [low, high]: every replica is paid from the beginning to the end."""
    return [round(seconds / 3600 * price_per_hour * _replicas(plan, spec), 4) for seconds in time_s]


def _item_bytes(plan: Plan, spec: JobSpec) -> int:
    """Bytes of an element of embeddings, activations and cache."""
    if plan.dtype == "int8":
        return 2 if may_multiply_bfloat16() else 4  # as `model/layers/int8_linear.py` chooses
    return ITEM_BYTES.get(plan.dtype, 2 if spec.device == "cuda" else 4)


def _device(spec: JobSpec) -> str:
    return "cuda" if spec.device == "cuda" else "cpu"


def _measured(seconds: float, source: str) -> dict[str, Any]:
    return {"time_s": [round(seconds / _UNCERTAINTY), round(seconds * _UNCERTAINTY)], "time_source": source}


def _by_speed(plan: Plan, spec: JobSpec, workload: Workload, speed: MeasuredSpeed) -> float:
    work = workload.own_tokens * speed.prompt_token_s + workload.completion_tokens * speed.new_token_s
    # Replicas on this machine share the cores that the speed was measured with.
    shares = _replicas(plan, spec) if spec.address or _device(spec) == "cuda" else 1
    return RAY_START_S + _PROCESS_START_S + speed.start_s + work / shares


def _by_last_run(workload: Workload, run: LastRun) -> float:
    # The last run's seconds hold the start of its replicas, which does not grow with the rows.
    start = run.start_s if run.start_s is not None else min(REPLICA_START_S, run.seconds / 2)
    before = run.before_s if run.before_s is not None else RAY_START_S
    return before + start + workload.tokens / run.work_tokens_per_s


def _by_size(plan: Plan, spec: JobSpec, parameters: int, workload: Workload) -> list[float]:
    device = _device(spec)
    replicas = _replicas(plan, spec)
    ranks = replicas * spec.tensor_parallel
    units = ranks if device == "cuda" or spec.address else usable_cores()
    slow, fast = GPU_SPEED if device == "cuda" else CPU_CORE_SPEED
    work = 2 * parameters * (workload.own_tokens + workload.completion_tokens) / units
    steps = 0.0
    if isinstance(spec, GenerateSpec):
        slots = min(spec.slots_on(device), max(1, workload.sequences // replicas))
        steps = workload.completion_tokens / (slots * replicas)
    low = START_S[0] + max(work / fast, steps * STEP_S[device][0])
    high = START_S[1] + work / slow + steps * STEP_S[device][1]
    return [round(low), round(high)]
