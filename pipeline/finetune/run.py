"""Runs a training: writes the data, runs the workers, and exports the last checkpoint.

A run that was killed at any point is resumed by the same request, from what is on disk.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray

from tirazh.actors.cores import usable_cores
from tirazh.actors.dtype import resolve_dtype
from tirazh.actors.training_group import TrainingGroupConfig, refuse_too_many, run_group
from tirazh.errors import JobError, RequestError
from tirazh.model.checkpoints.directory import open_checkpoint
from tirazh.model.config import ModelSettings
from tirazh.model.training.checkpoint import TrainingCheckpoint, find_checkpoints
from tirazh.model.training.config import LoraSettings, OptimizerConfig, TrainingConfig
from tirazh.model.training.export import export_model
from tirazh.model.training.log import read_log
from tirazh.pipeline.execution.cluster_address import is_cluster
from tirazh.pipeline.execution.ray_session import ray_cluster
from tirazh.pipeline.finetune.corpus import CorpusConfig, write_corpus, write_label_file
from tirazh.pipeline.finetune.loss_plot import draw_losses
from tirazh.pipeline.finetune.output import TrainingOutput
from tirazh.pipeline.finetune.plan import FinetunePlan, plan_finetune
from tirazh.pipeline.finetune.progress import LogFollower, OnTraining
from tirazh.pipeline.finetune.spec import FinetuneSpec
from tirazh.pipeline.output.lease import hold
from tirazh.pipeline.output.names import OutputFiles

Tell = Callable[[str], None]
_EVALUATIONS = 10  # evaluations in a run, when --eval-steps is not given
_WARMUP_SHARE = 100  # one step in so many is warm-up, when --warmup-steps is not given


def run_finetune(
    spec: FinetuneSpec, *, on_progress: OnTraining | None = None, tell: Tell | None = None
) -> dict[str, Any]:
    """Train, or resume training, and return the manifest.

    Raises TirazhError; a refused request leaves no files behind.
    """
    started_at = time.monotonic()
    plan = plan_finetune(spec)
    output = TrainingOutput(Path(plan.output))
    saved = output.find_request(plan.identity(), overwrite=spec.overwrite)
    manifest = output.read_manifest() if saved is not None else None
    if manifest is not None:
        return manifest
    try:
        with hold(OutputFiles(plan.storage, plan.output), lease_s=spec.lease_s, tell=tell) as lease:
            lease.confirm()
            # Read again: another run may have changed the directory before this one got the lease.
            saved = output.find_request(plan.identity(), overwrite=spec.overwrite)
            if saved is None:
                output.clear()
            with ray_cluster(spec.address, extra_cpus=spec.workers, tell=tell):
                run = _prepare(plan, output, saved, tell)
                run.train(on_progress, tell)
            lease.confirm()
            return run.finish(time.monotonic() - started_at)
    except RequestError:
        if not output.request.exists():
            output.remove_if_empty()
        raise


@dataclass(frozen=True, slots=True)
class _Run:
    """A training run whose data and request are on disk."""

    plan: FinetunePlan
    output: TrainingOutput
    request: dict[str, Any]
    device: str

    def train(self, on_progress: OnTraining | None, tell: Tell | None) -> None:
        """Run the workers until the checkpoint of the last step exists."""
        if self._is_trained():
            return
        spec, total = self.plan.spec, self.request["total_steps"]
        group = TrainingGroupConfig(
            workers=spec.workers, max_restarts=spec.max_restarts, storage=str(self.output.ray_train)
        )
        if tell is not None:
            tell(f"Training {total:,} steps on {spec.workers} x {self.device} in {self.request['dtype']}")
        with LogFollower(self.output.log, total, on_progress, tell):
            run_group(self.training_config(), group)
        last = read_log(self.output.log)[-1:]
        if last and "stopped" in last[0]:
            raise JobError(
                f"training stopped: {last[0]['stopped']}; a lower --learning-rate, a longer --warmup-steps or "
                "--dtype float32 may help (remove the output directory first)"
            )
        if not self._is_trained():
            raise JobError(
                f"the workers ended without a checkpoint of step {total} in {self.output.checkpoints}; run the same "
                "command again to resume"
            )

    def finish(self, seconds: float) -> dict[str, Any]:
        """Write the model, the plot and the manifest."""
        spec, log = self.plan.spec, read_log(self.output.log)
        base = open_checkpoint(spec.model, spec.model_settings)
        export_model(self.output.folder, base, self._last(), lora=_lora(spec), dtype=spec.save_dtype)
        self.output.plot.write_text(draw_losses(log, title=self.output.folder.name), encoding="utf-8")
        losses = [entry["loss"] for entry in log if "loss" in entry]
        last_evaluation = next((entry for entry in reversed(log) if "loss" not in entry), {})
        recent = losses[-20:]
        manifest = {
            "kind": spec.kind,
            "spec": spec.to_dict(),
            "fingerprint": spec.fingerprint(),
            "model_fingerprint": self.plan.model.fingerprint,
            "output": str(self.output.folder),
            "device": self.device,
            "seconds": round(seconds, 1),
            "trained_tokens": sum(entry.get("tokens", 0) for entry in log),
            "first_loss": losses[0],
            "last_loss": sum(recent) / len(recent),
            "evaluation": {name: value for name, value in last_evaluation.items() if name != "step"},
        } | {name: value for name, value in self.request.items() if name not in ("identity", "format")}
        self.output.write_manifest(manifest)
        self.output.remove_work_files()
        return manifest

    def training_config(self) -> TrainingConfig:
        """Return the configuration that every worker receives."""
        spec, total_steps = self.plan.spec, self.request["total_steps"]
        has_eval, has_labels = self.plan.evaluation is not None, self.plan.labelled is not None
        return TrainingConfig(
            model=_absolute_model(spec.model),
            model_settings=_absolute_settings(spec.model_settings),
            dtype=self.request["dtype"],
            device=self.device,
            train_data=str(self.output.data("train")),
            eval_data=str(self.output.data("eval")) if has_eval else None,
            label_data=str(self.output.data("labels")) if has_labels else None,
            checkpoints=str(self.output.checkpoints),
            log=str(self.output.log),
            stop_request=str(self.output.stop_request),
            total_steps=total_steps,
            batch_size=spec.batch_size,
            micro_batch_size=spec.micro_batch_size,
            seed=spec.seed,
            role_weights=(spec.prompt_loss_weight, 1.0, spec.completion_loss_weight),
            optimizer=_optimizer(spec, total_steps),
            lora=_lora(spec),
            zero_stage=spec.zero_stage,
            offload=spec.offload,
            activation_checkpointing=spec.activation_checkpointing,
            save_steps=spec.save_steps,
            keep_checkpoints=spec.keep_checkpoints,
            eval_steps=_eval_steps(spec, total_steps),
            threads=_threads(spec) if self.device == "cpu" else 0,
        )

    def _is_trained(self) -> bool:
        found = find_checkpoints(self.output.checkpoints)
        return bool(found) and found[-1].step == self.request["total_steps"]

    def _last(self) -> TrainingCheckpoint:
        return find_checkpoints(self.output.checkpoints)[-1]


def _prepare(plan: FinetunePlan, output: TrainingOutput, saved: dict[str, Any] | None, tell: Tell | None) -> _Run:
    """Resolve device and dtype, and write the data and the request, or use the `saved` request.

    Evaluation data are written every time: they may change between runs.
    """
    spec = plan.spec
    device = _resolve_device(spec)
    refuse_too_many(spec.workers, device)
    dtype = saved["dtype"] if saved is not None else resolve_dtype(device) if spec.dtype == "auto" else spec.dtype
    if dtype == "float16" and device == "cpu":
        raise RequestError("--dtype float16 needs GPUs for training; give bfloat16 or float32 on CPUs")
    _write_evaluation(plan, output)
    if saved is not None:
        return _Run(plan, output, saved, device)
    if tell is not None:
        tell(f"Reading {plan.training.rows:,} rows ...")
    corpus = _corpus_config(plan, limit=spec.limit, packing=plan.packing, seed=spec.seed)
    counts = write_corpus(output.data("train"), plan.training.files, plan.storage, plan.documents(), corpus)
    total = spec.max_steps or max(1, math.ceil(spec.epochs * counts["sequences"] / spec.batch_size))
    request = {
        "identity": plan.identity(),
        "dtype": dtype,
        "seq_length": plan.seq_length,
        "packing": plan.packing,
        "total_steps": total,
    } | counts
    output.write_request(request)
    return _Run(plan, output, request, device)


def _write_evaluation(plan: FinetunePlan, output: TrainingOutput) -> None:
    limit = plan.spec.eval_limit
    if plan.evaluation is not None:
        corpus = _corpus_config(plan, limit=limit, packing=plan.packing, seed=None)
        write_corpus(output.data("eval"), plan.evaluation.files, plan.storage, plan.documents(), corpus)
    if plan.labelled is not None:
        corpus = _corpus_config(plan, limit=limit, packing="single", seed=None)
        prompts = plan.labelled_prompts()
        write_corpus(output.data("labels"), plan.labelled.files, plan.storage, prompts, corpus)
        write_label_file(output.data("labels"), prompts, plan.label_tokens())


def _corpus_config(plan: FinetunePlan, *, limit: int | None, packing: str, seed: int | None) -> CorpusConfig:
    return CorpusConfig(
        packing=packing,
        seq_length=plan.seq_length,
        limit=limit,
        seed=seed,
        max_error_rate=plan.spec.max_error_rate,
    )


def _resolve_device(spec: FinetuneSpec) -> str:
    """Resolve `--device auto`: GPUs if the cluster has one for every worker."""
    has_gpus = ray.cluster_resources().get("GPU", 0) >= spec.workers
    return "cuda" if spec.device == "cuda" or (spec.device == "auto" and has_gpus) else "cpu"


def _threads(spec: FinetuneSpec) -> int:
    """Return the CPU threads of a worker.

    On one machine the workers share its cores; in a cluster the default is 1.
    """
    if spec.threads or is_cluster(spec.address):
        return spec.threads or 1
    return max(1, usable_cores() // spec.workers)


def _optimizer(spec: FinetuneSpec, total_steps: int) -> OptimizerConfig:
    warmup = spec.warmup_steps if spec.warmup_steps is not None else math.ceil(total_steps / _WARMUP_SHARE)
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


def _eval_steps(spec: FinetuneSpec, total_steps: int) -> int:
    return spec.eval_steps if spec.eval_steps is not None else math.ceil(total_steps / _EVALUATIONS)


def _lora(spec: FinetuneSpec) -> LoraSettings | None:
    return (
        LoraSettings(rank=spec.lora_rank, alpha=spec.lora_alpha, targets=spec.lora_targets) if spec.lora_rank else None
    )


def _absolute_settings(settings: ModelSettings) -> ModelSettings:
    named = {name: getattr(settings, name) for name in ("deepspeed_config", "tokenizer")}
    return replace(settings, **{name: os.path.abspath(path) for name, path in named.items() if path is not None})


def _absolute_model(model: str) -> str:
    """Make the path absolute: workers start in another directory."""
    return model if model == "embedded" else os.path.abspath(os.path.expanduser(model))
