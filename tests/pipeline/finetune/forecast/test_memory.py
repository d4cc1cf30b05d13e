"""The memory of a training worker against peaks that were measured: VmHWM of a process that made two steps.

Models of 6 layers of 512 with 50,264 tokens (45,174,784 weights); the sparse one has 8 layers. The process had no Ray.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tirazh.model.config import ModelConfig, SparsePattern
from tirazh.pipeline.finetune.forecast.memory import LIBRARY_BYTES, WorkerMemory, estimate
from tirazh.pipeline.finetune.spec import FinetuneSpec

DENSE = ModelConfig(
    num_layers=6, hidden_size=512, num_attention_heads=8, vocab_size=50_264, max_position_embeddings=1_024
)
PATTERN = SparsePattern(block_size=16, num_local_blocks=8, num_different_global_patterns=8)
SPARSE = replace(DENSE, num_layers=8, sparse_mode="alternating", sparse_pattern=PATTERN)
# MiB of the same process without a model, after its first step.
LIBRARIES = 487


def memory(config: ModelConfig = DENSE, *, dtype: str, tokens: int, device: str = "cpu", **more: Any) -> WorkerMemory:
    spec = FinetuneSpec(input=("a",), output="b", **more)
    return estimate(config, spec, tokens=tokens, trained_share=1.0, device=device, dtype=dtype)


@pytest.mark.parametrize(
    ("measured_mib", "config", "settings"),
    [
        (1_354, DENSE, {"dtype": "float32", "micro_batch_size": 2, "tokens": 128}),
        (2_614, DENSE, {"dtype": "float32", "micro_batch_size": 4, "tokens": 512}),
        (1_822, DENSE, {"dtype": "bfloat16", "micro_batch_size": 2, "tokens": 128}),
        (2_522, DENSE, {"dtype": "bfloat16", "micro_batch_size": 4, "tokens": 512}),
        (2_467, DENSE, {"dtype": "float32", "micro_batch_size": 4, "tokens": 512, "activation_checkpointing": True}),
        (844, DENSE, {"dtype": "float32", "micro_batch_size": 2, "tokens": 128, "lora_rank": 8}),
        (2_891, SPARSE, {"dtype": "float32", "micro_batch_size": 2, "tokens": 1_024}),
    ],
)
def test_the_estimate_is_within_15_percent_of_a_measured_peak(
    measured_mib: int, config: ModelConfig, settings: dict[str, Any]
) -> None:
    found = memory(config, **settings)
    assert (found.total - LIBRARY_BYTES) / 2**20 + LIBRARIES == pytest.approx(measured_mib, rel=0.15)
    assert sum(found.to_dict().values()) == found.total


def test_workers_share_what_their_zero_stage_shards() -> None:
    def of(stage: int) -> WorkerMemory:
        return memory(dtype="bfloat16", tokens=512, micro_batch_size=1, workers=4, zero_stage=stage)

    one, two, three = map(of, (1, 2, 3))
    assert one.optimizer == two.optimizer == three.optimizer == memory(dtype="bfloat16", tokens=512).optimizer // 4
    assert (two.gradients, three.weights) == (one.gradients // 4, one.weights // 4)


def test_a_gpu_holds_neither_the_libraries_nor_what_is_offloaded() -> None:
    whole = memory(dtype="bfloat16", tokens=512, device="cuda", zero_stage=1)
    lower = memory(dtype="bfloat16", tokens=512, device="cuda", zero_stage=1, offload="optimizer")
    assert whole.total - lower.total == whole.optimizer == lower.on_host - whole.on_host
    assert whole.on_host >= LIBRARY_BYTES + whole.loading
