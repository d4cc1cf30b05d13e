"""What the workers of a training are told that follows from its spec: threads, optimizer, and when to evaluate."""

from __future__ import annotations

import math

from tirazh.actors.cores import usable_cores
from tirazh.model.training.config import OptimizerConfig, default_warmup_steps
from tirazh.pipeline.execution.cluster.address import is_cluster
from tirazh.pipeline.finetune.spec import FinetuneSpec

_EVALUATIONS = 10  # evaluations in a run, when --eval-steps is not given


def worker_threads(spec: FinetuneSpec) -> int:
    """Return the CPU threads of a worker.

    On one machine the workers share its cores; in a cluster the default is 1.
    """
    if spec.threads or is_cluster(spec.address):
        return spec.threads or 1
    return max(1, usable_cores() // spec.workers)


def optimizer_config(spec: FinetuneSpec, total_steps: int) -> OptimizerConfig:
    """Return the optimizer of a training of so many steps."""
    warmup = spec.warmup_steps if spec.warmup_steps is not None else default_warmup_steps(total_steps)
    return OptimizerConfig(
        learning_rate=spec.learning_rate,
        min_learning_rate=spec.min_learning_rate,
        schedule=spec.lr_schedule,
        warmup_steps=warmup,
        weight_decay=spec.weight_decay,
        betas=(spec.adam_beta1, spec.adam_beta2),
        epsilon=spec.adam_epsilon,
        max_grad_norm=spec.max_grad_norm,
    )


def eval_steps(spec: FinetuneSpec, total_steps: int) -> int:
    """Return N for an evaluation after every N of so many steps; 0: only before the first and after the last."""
    return spec.eval_steps if spec.eval_steps is not None else math.ceil(total_steps / _EVALUATIONS)
