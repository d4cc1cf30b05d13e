"""A training from its request to the finished model: data on disk, a group of workers, the last checkpoint as a model.

Called by `jobs/finetune.py`. Killed anywhere, the same request goes on: what is on disk says how far it came.
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

from tirazh.actors.dtype import resolve_dtype
from tirazh.actors.training_group import TrainingGroupConfig, refuse_too_many, run_group
from tirazh.errors import JobError, RequestError
from tirazh.model.checkpoints.directory import open_checkpoint
from tirazh.model.config import ModelSettings
from tirazh.model.training.checkpoint import TrainingCheckpoint, find_checkpoints
from tirazh.model.training.config import LoraSettings, OptimizerConfig, TrainingConfig
from tirazh.model.training.export import export_model
from tirazh.model.training.log import read_log
from tirazh.pipeline.execution.ray_session import is_cluster, ray_cluster
from tirazh.pipeline.finetune.corpus import CorpusConfig, write_corpus, write_label_file
from tirazh.pipeline.finetune.loss_plot import draw_losses
from tirazh.pipeline.finetune.output import TrainingOutput
from tirazh.pipeline.finetune.plan import FinetunePlan, plan_finetune
from tirazh.pipeline.finetune.progress import LogFollower, OnTraining
from tirazh.pipeline.finetune.spec import FinetuneSpec
from tirazh.pipeline.output.lease import hold
from tirazh.pipeline.output.names import OutputFiles

Tell = Callable[[str], None]
_EVALUATIONS = 10
_WARMUP_SHARE = 100


def run_finetune(
    spec: FinetuneSpec, *, on_progress: OnTraining | None = None, tell: Tell | None = None
) -> dict[str, Any]:
    """Train, or go on training, and return the manifest. Raises TirazhError; a request that is refused leaves nothing
    behind."""
    begun_at = time.monotonic()
    plan = plan_finetune(spec)
    output = TrainingOutput(Path(plan.output))
    begun = output.find(plan.identity(), overwrite=spec.overwrite)
    done = output.read_manifest() if begun is not None else None
    if done is not None:
        return done
    try:
        with hold(OutputFiles(plan.storage, plan.output), lease_s=spec.lease_s, tell=tell) as lease:
            lease.confirm()
            begun = output.find(plan.identity(), overwrite=spec.overwrite)
            if begun is None:
                output.clear()
            with ray_cluster(spec.address, extra_cpus=spec.workers):
                run = _settle(plan, output, begun, tell)
                run.train(on_progress, tell)
            lease.confirm()
            return run.finish(time.monotonic() - begun_at)
    except RequestError:
        if not output.request.exists():
            output.remove_if_empty()
        raise


@dataclass(frozen=True, slots=True)
class _Run:
    """A training whose data are on disk and whose numbers are settled."""

    plan: FinetunePlan
    output: TrainingOutput
    settled: dict[str, Any]
    device: str

    def train(self, on_progress: OnTraining | None, tell: Tell | None) -> None:
        """Run the group until the last step's checkpoint is there."""
        if self._is_trained():
            return
        spec, total = self.plan.spec, self.settled["total_steps"]
        group = TrainingGroupConfig(
            workers=spec.workers, max_restarts=spec.max_restarts, storage=str(self.output.ray_train)
        )
        if tell is not None:
            tell(f"Training {total:,} steps on {spec.workers} x {self.device} in {self.settled['dtype']}")
        with LogFollower(self.output.log, total, on_progress, tell):
            run_group(self.training_plan(), group)
        last = read_log(self.output.log)[-1:]
        if last and "stopped" in last[0]:
            raise JobError(
                f"training stopped: {last[0]['stopped']}; a lower --learning-rate, a longer --warmup-steps or "
                "--dtype float32 may help (remove the output directory first)"
            )
        if not self._is_trained():
            raise JobError(f"the workers ended without the checkpoint of step {total} in {self.output.checkpoints}")

    def finish(self, seconds: float) -> dict[str, Any]:
        """Write the model, the plot and the manifest."""
        spec, log = self.plan.spec, read_log(self.output.log)
        base = open_checkpoint(spec.model, spec.model_settings)
        export_model(self.output.folder, base, self._last(), lora=_lora(spec), dtype=spec.save_dtype)
        self.output.plot.write_text(draw_losses(log, title=self.output.folder.name), encoding="utf-8")
        losses = [entry["loss"] for entry in log if "loss" in entry]
        figures = [entry for entry in log if "loss" not in entry]
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
            "evaluation": {name: value for name, value in figures[-1].items() if name != "step"} if figures else {},
        } | {name: value for name, value in self.settled.items() if name not in ("identity", "format")}
        self.output.end(manifest)
        self.output.tidy()
        return manifest

    def training_plan(self) -> TrainingConfig:
        """What every worker is told."""
        spec, settled = self.plan.spec, self.settled
        has_eval, has_labels = self.plan.evaluation is not None, self.plan.labelled is not None
        return TrainingConfig(
            model=_absolute_model(spec.model),
            model_settings=_absolute_settings(spec.model_settings),
            dtype=settled["dtype"],
            device=self.device,
            train_data=str(self.output.data("train")),
            eval_data=str(self.output.data("eval")) if has_eval else None,
            label_data=str(self.output.data("labels")) if has_labels else None,
            checkpoints=str(self.output.checkpoints),
            log=str(self.output.log),
            stop_request=str(self.output.stop_request),
            total_steps=settled["total_steps"],
            batch_size=spec.batch_size,
            micro_batch_size=spec.micro_batch_size,
            seed=spec.seed,
            role_weights=(spec.prompt_loss_weight, 1.0, spec.completion_loss_weight),
            optimizer=_optimizer(spec, settled["total_steps"]),
            lora=_lora(spec),
            zero_stage=spec.zero_stage,
            offload=spec.offload,
            activation_checkpointing=spec.activation_checkpointing,
            save_steps=spec.save_steps,
            keep_checkpoints=spec.keep_checkpoints,
            eval_steps=_eval_steps(spec, settled["total_steps"]),
            threads=_threads(spec) if self.device == "cpu" else 0,
        )

    def _is_trained(self) -> bool:
        found = find_checkpoints(self.output.checkpoints)
        return bool(found) and found[-1].step == self.settled["total_steps"]

    def _last(self) -> TrainingCheckpoint:
        return find_checkpoints(self.output.checkpoints)[-1]


def _settle(plan: FinetunePlan, output: TrainingOutput, begun: dict[str, Any] | None, tell: Tell | None) -> _Run:
    """Settle device and dtype, make the data, and write down what the training is; or take up what was written down.
    Evaluation data are made anew: they may change between runs."""
    spec = plan.spec
    device = _settle_device(spec)
    refuse_too_many(spec.workers, device)
    dtype = begun["dtype"] if begun is not None else resolve_dtype(device) if spec.dtype == "auto" else spec.dtype
    if dtype == "float16" and device == "cpu":
        raise RequestError("--dtype float16 is trained on GPUs only; on CPUs give bfloat16 or float32")
    _write_evaluation(plan, output)
    if begun is not None:
        return _Run(plan, output, begun, device)
    if tell is not None:
        tell(f"Reading {plan.training.rows:,} rows ...")
    corpus = _corpus_plan(plan, limit=spec.limit, packing=plan.packing, seed=spec.seed)
    counts = write_corpus(output.data("train"), plan.training.files, plan.storage, plan.documents(), corpus)
    total = spec.max_steps or max(1, math.ceil(spec.epochs * counts["sequences"] / spec.batch_size))
    settled = {
        "identity": plan.identity(),
        "dtype": dtype,
        "seq_length": plan.seq_length,
        "packing": plan.packing,
        "total_steps": total,
    }
    output.begin(settled | counts)
    return _Run(plan, output, settled | counts, device)


def _write_evaluation(plan: FinetunePlan, output: TrainingOutput) -> None:
    limit = plan.spec.eval_limit
    if plan.evaluation is not None:
        corpus = _corpus_plan(plan, limit=limit, packing=plan.packing, seed=None)
        write_corpus(output.data("eval"), plan.evaluation.files, plan.storage, plan.documents(), corpus)
    if plan.labelled is not None:
        corpus = _corpus_plan(plan, limit=limit, packing="single", seed=None)
        prompts = plan.labelled_prompts()
        write_corpus(output.data("labels"), plan.labelled.files, plan.storage, prompts, corpus)
        write_label_file(output.data("labels"), prompts, plan.label_tokens())


def _corpus_plan(plan: FinetunePlan, *, limit: int | None, packing: str, seed: int | None) -> CorpusConfig:
    return CorpusConfig(
        packing=packing,
        seq_length=plan.seq_length,
        limit=limit,
        seed=seed,
        max_error_rate=plan.spec.max_error_rate,
    )


def _settle_device(spec: FinetuneSpec) -> str:
    """What `--device auto` means: GPUs where there are enough of them."""
    has_gpus = ray.cluster_resources().get("GPU", 0) >= spec.workers
    return "cuda" if spec.device == "cuda" or (spec.device == "auto" and has_gpus) else "cpu"


def _threads(spec: FinetuneSpec) -> int:
    """Workers on one machine share its cores; those of a cluster are taken to have a machine each."""
    if spec.threads or is_cluster(spec.address):
        return spec.threads or 1
    return max(1, len(os.sched_getaffinity(0)) // spec.workers)


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
    """Workers start in another directory."""
    return model if model == "embedded" else os.path.abspath(os.path.expanduser(model))
