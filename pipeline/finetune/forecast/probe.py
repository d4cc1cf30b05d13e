"""The time of a training, from a few steps that are made in this process: for `tirazh plan --probe`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tirazh.actors.cores import usable_cores
from tirazh.actors.training_probe import step_seconds
from tirazh.model.training.config import LoraSettings, OptimizerConfig, TrainingConfig
from tirazh.pipeline.finetune.corpus import CorpusConfig, write_corpus
from tirazh.pipeline.finetune.plan import FinetunePlan, absolute_model, absolute_settings, plan_finetune
from tirazh.pipeline.finetune.spec import FinetuneSpec

# Seconds until the workers train: start of Ray and of the workers, imports.
_START_S = 30.0
# A time from a few steps is right within this factor, up or down.
_UNCERTAINTY = 1.3
_MOST_ROWS = 2_000


def probe_training(spec: FinetuneSpec, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return `time_s`, [low, high], `time_source` and `step_s`. `facts` are those of `describe_training`.

    Needs the memory of a worker; writes only to a temporary directory. Raises InputError for rows that cannot be used.
    """
    plan = plan_finetune(spec)
    with tempfile.TemporaryDirectory(prefix="tirazh-probe-") as folder:
        config = _config(plan, Path(folder), device=facts["device"], dtype=facts["dtype"])
        step_s = step_seconds(config)
    # Workers on this machine share the cores that the step was measured with; GPUs and machines come on top.
    shares = spec.workers if facts["device"] == "cuda" or spec.address else 1
    seconds = _START_S + facts.get("steps_left", facts["steps"]) * step_s / shares
    more = ", without evaluations" if plan.evaluation or plan.labelled else ""
    return {
        "step_s": round(step_s, 3),
        "time_s": [round(seconds / _UNCERTAINTY), round(seconds * _UNCERTAINTY)],
        "time_source": f"a few steps on this machine{more}",
    }


def _config(plan: FinetunePlan, folder: Path, *, device: str, dtype: str) -> TrainingConfig:
    """Write some rows, and return the configuration of one worker that makes whole steps with them."""
    spec = plan.spec
    limit = min(_MOST_ROWS, spec.limit or _MOST_ROWS)
    corpus = CorpusConfig(
        packing=plan.packing,
        seq_length=plan.seq_length,
        limit=limit,
        seed=spec.seed,
        max_error_rate=1.0,
        sources=plan.sources,
    )
    write_corpus(folder / "data", plan.training, plan.storage, plan.documents(), corpus)
    targets = spec.lora_targets
    lora = LoraSettings(rank=spec.lora_rank, alpha=spec.lora_alpha, targets=targets) if spec.lora_rank else None
    return TrainingConfig(
        training="0" * 32,
        model=absolute_model(spec.model),
        model_settings=absolute_settings(spec.model_settings),
        dtype=dtype,
        device=device,
        train_data=str(folder / "data"),
        eval_data=None,
        label_data=None,
        checkpoints=str(folder / "checkpoints"),
        log=str(folder / "losses.jsonl"),
        stop_request=str(folder / "stop"),
        total_steps=1 << 20,
        batch_size=spec.batch_size,
        micro_batch_size=spec.micro_batch_size,
        seed=spec.seed,
        role_weights=(spec.prompt_loss_weight, 1.0, spec.completion_loss_weight),
        optimizer=OptimizerConfig(learning_rate=spec.learning_rate),
        lora=lora,
        zero_stage=spec.zero_stage,
        offload=spec.offload,
        activation_checkpointing=spec.activation_checkpointing,
        threads=spec.threads or usable_cores(),
    )
