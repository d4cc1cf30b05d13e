"""Runs a training: writes the data, runs the workers, and exports the last checkpoint.

A run that was killed at any point is resumed by the same request, from what is on disk. Only the
holder of the output's lease writes: the driver and the first worker check it before every change.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from uuid import uuid4

from tirazh.actors.cores import usable_cores
from tirazh.actors.dtype import resolve_dtype
from tirazh.actors.training_failures import read_failures
from tirazh.actors.training_group import TrainingGroupConfig, choose_device, refuse_too_many, run_group
from tirazh.errors import JobError, RequestError
from tirazh.model.checkpoints.directory import open_checkpoint
from tirazh.model.training.checkpoint import TrainingCheckpoint, find_checkpoints
from tirazh.model.training.config import TrainingConfig
from tirazh.model.training.disk_room import explaining_full_disk
from tirazh.model.training.log import read_log
from tirazh.model.training.selection import Selection
from tirazh.pipeline.execution.cluster.address import is_cluster
from tirazh.pipeline.execution.ray_session import ray_cluster
from tirazh.pipeline.finetune.chosen import choose, is_trained
from tirazh.pipeline.finetune.corpus import CorpusConfig, write_corpus, write_label_file
from tirazh.pipeline.finetune.forecast.describe import total_steps, workers_note
from tirazh.pipeline.finetune.forecast.disk import check_room
from tirazh.pipeline.finetune.identity import training_id
from tirazh.pipeline.finetune.loss_plot import draw_losses
from tirazh.pipeline.finetune.model_card import library_versions, render_model_card
from tirazh.pipeline.finetune.model_files import check_saved, lora_of, write_model_files
from tirazh.pipeline.finetune.output import CARD, TrainingOutput
from tirazh.pipeline.finetune.plan import FinetunePlan, absolute_model, absolute_settings, plan_finetune
from tirazh.pipeline.finetune.progress import Followed, LogFollower, OnTraining
from tirazh.pipeline.finetune.publish import Result, publish_model
from tirazh.pipeline.finetune.recorded import recorded
from tirazh.pipeline.finetune.remote.output import StoredOutput
from tirazh.pipeline.finetune.remote.publish import publish_stored
from tirazh.pipeline.finetune.row_account import tell_of_rows
from tirazh.pipeline.finetune.spec import FinetuneSpec
from tirazh.pipeline.finetune.start import (
    bring_start,
    check_steps,
    describe_start,
    names_output,
    newest_good,
    start_checkpoint,
)
from tirazh.pipeline.finetune.summary import describe_change, facts_of_failures, facts_of_log, stopped
from tirazh.pipeline.finetune.work_folder import WorkFolder
from tirazh.pipeline.finetune.worker_settings import eval_steps, optimizer_config, worker_threads
from tirazh.pipeline.output.leases.lease import Lease, hold
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.settings import flag_name
from tirazh.pipeline.storage.disk import write_disk

Tell = Callable[[str], None]


def run_finetune(
    spec: FinetuneSpec, *, on_progress: OnTraining | None = None, tell: Tell | None = None
) -> dict[str, Any]:
    """Train, or resume training, and return the manifest.

    Raises TirazhError; a refused request leaves no files behind.
    """
    started_at = time.monotonic()
    plan = plan_finetune(spec)
    if tell is not None:
        for line in plan.model.notices:
            tell(line)
    output = plan.open_output()
    find = partial(
        output.find_request,
        plan.identity(),
        overwrite=spec.overwrite,
        is_successor=names_output(spec, plan.output),
    )
    saved = find()
    manifest = output.read_manifest(saved)
    if saved is not None and spec.overwrite and tell is not None:
        state = "complete" if manifest is not None else "continued from its last checkpoint"
        tell(f"--overwrite removes nothing of this training, which is {state}")
    if manifest is not None:
        check_saved(output.folder, manifest, spec)
        return manifest
    check_room(plan, saved)
    try:
        files = OutputFiles(plan.storage, plan.output)
        with hold(files, lease_s=spec.lease_s, tell=tell) as lease, ExitStack() as history:
            lease.confirm()
            # Read again: another run may have changed the directory before this one got the lease.
            saved = find()
            manifest = output.read_manifest(saved)
            if manifest is not None:
                return manifest
            full_disk = explaining_full_disk(output.folder)
            with (
                full_disk,
                _removed_on_refusal(output, lease),
                ray_cluster(spec.address, extra_cpus=spec.workers, tell=tell),
            ):
                run = _prepare(plan, output, lease, saved, tell)
                record = history.enter_context(recorded(files, lease, run.request["training"]))
                run.train(on_progress, tell)
            with explaining_full_disk(output.folder):
                manifest = run.finish(time.monotonic() - started_at, tell)
            record(manifest)
            return manifest
    except RequestError:
        output.remove_if_empty()
        raise


@contextmanager
def _removed_on_refusal(output: TrainingOutput, lease: Lease) -> Iterator[None]:
    """Remove what a refused request has written, while the lease is held."""
    try:
        yield
    except RequestError:
        with suppress(JobError):
            lease.token.guard(output.remove_unstarted)
        raise


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    """A training run whose data and request are on disk. `name` is a new one for every run. `evaluation_rows` has the
    counts of rows of --eval-input and --label-input, by the name of the setting."""

    name: str
    plan: FinetunePlan
    output: TrainingOutput
    lease: Lease
    request: dict[str, Any]
    device: str
    evaluation_rows: dict[str, Any] = field(default_factory=dict)

    @property
    def work(self) -> WorkFolder:
        return self.output.work(self.request["training"])

    @property
    def first_step(self) -> int:
        """The number of steps before the first one of this training: above 0 where it continues from another one."""
        return int((self.request.get("start") or {}).get("first_step", 0))

    @property
    def selection(self) -> Selection:
        return self.plan.spec.selection(first_step=self.first_step)

    def train(self, on_progress: OnTraining | None, tell: Tell | None) -> None:
        """Run the workers until the checkpoint of the last step exists."""
        if self._is_trained():
            return
        spec, total = self.plan.spec, self.request["total_steps"]
        group = TrainingGroupConfig(
            workers=spec.workers,
            max_restarts=spec.max_restarts,
            storage=str(self.work.ray_train),
            failures=str(self.work.failures),
        )
        if tell is not None:
            steps = f"{total - self.first_step:,} steps"
            tell(f"Training {steps} on {spec.workers} x {self.device} in {self.request['dtype']}")
            if self.request.get("start") is not None and not self.checkpoints():
                tell(describe_start(self.request["start"], fresh_optimizer=spec.fresh_optimizer))
        followed = Followed(
            log=self.work.log,
            failures=self.work.failures,
            total_steps=total,
            eval_steps=eval_steps(spec, total - self.first_step),
        )
        token, keeps_best = self.lease.token, spec.keep == "best"
        with (
            self.output.uploading(self.request["training"], token, run=self.name, keeps_best=keeps_best),
            LogFollower(followed, on_progress, tell, self._draw),
        ):
            run_group(self.training_config(), group)
        self.lease.confirm()
        log = read_log(self.work.log)
        if log and "stopped" in log[-1]:
            good = newest_good(self.checkpoints(), log)
            raise stopped(log[-1]["stopped"], output=spec.output, good=good, learning_rate=spec.learning_rate)
        if log and "ended" in log[-1] and tell is not None:
            tell(f"The training ended at step {log[-1]['step']:,}: {log[-1]['ended']}")
        if not self._is_trained():
            raise JobError(
                f"the workers ended without a checkpoint of step {total} in {self.work.checkpoints}; run the same "
                "command again to resume"
            )

    @property
    def _title(self) -> str:
        return self.output.shown.rstrip("/").rpartition("/")[2]

    def _draw(self) -> None:
        """Draw the plot of the log as it is now."""
        plot = draw_losses(read_log(self.work.log), title=self._title)
        # A run that was taken over, or a full disk, is reported by the training itself.
        with suppress(JobError, OSError):
            self.output.worker_fence(self.lease.token).guard(lambda: write_disk(str(self.work.plot), plot.encode()))

    def finish(self, seconds: float, tell: Tell | None) -> dict[str, Any]:
        """Export the model, and replace the one in the output by it. Returns the manifest."""
        spec, log = self.plan.spec, read_log(self.work.log)
        base = open_checkpoint(spec.model, spec.model_settings)
        exported, chosen = self.work.of_run("export", self.name), choose(self.checkpoints(), log, self.selection)
        self.lease.token.guard(lambda: exported.mkdir(parents=True))
        identity = self.request["identity"]
        write_model_files(exported, base, chosen, identity, dtype=spec.save_dtype, save=spec.save)
        manifest = self._manifest(log, seconds, chosen.step)
        (exported / CARD).write_text(render_model_card(manifest, log), encoding="utf-8")
        result = Result(
            exported=exported,
            request=self.request,
            log=self.work.log.read_bytes(),
            plot=draw_losses(log, title=self._title),
            manifest=manifest,
            kept=self.checkpoints()[-1].folder if spec.keep_last_checkpoint else None,
        )
        if tell is not None and (change := describe_change(result.manifest)):
            tell(change)
        self.lease.confirm()
        self.lease.settle()
        if isinstance(self.output, StoredOutput):
            publish_stored(self.output, result, self.lease.token, run=self.name)
        else:
            publish_model(self.output, result, self.lease.token)
        return dict(result.manifest)

    def _manifest(self, log: list[dict[str, Any]], seconds: float, step: int) -> dict[str, Any]:
        spec = self.plan.spec
        return {
            "kind": spec.kind,
            "spec": spec.to_dict(),
            "fingerprint": spec.fingerprint(),
            "model_fingerprint": self.plan.model.fingerprint,
            "output": self.output.shown,
            "device": self.device,
            "versions": library_versions(),
            "seconds": round(seconds, 1),
            "evaluation_rows": self.evaluation_rows,
            "trained_tokens": sum(entry.get("tokens", 0) for entry in log),
            **facts_of_log(log, first_step=self.first_step, step=step),
            **facts_of_failures(read_failures(self.work.failures)),
        } | {name: value for name, value in self.request.items() if name not in ("identity", "format")}

    def training_config(self) -> TrainingConfig:
        """Return the configuration that every worker receives."""
        spec, total_steps = self.plan.spec, self.request["total_steps"]
        has_eval, has_labels = self.plan.evaluation is not None, self.plan.labelled is not None
        return TrainingConfig(
            training=self.request["training"],
            model=absolute_model(spec.model),
            model_settings=absolute_settings(spec.model_settings),
            dtype=self.request["dtype"],
            device=self.device,
            train_data=str(self.work.data),
            eval_data=str(self.work.of_run("eval", self.name)) if has_eval else None,
            label_data=str(self.work.of_run("labels", self.name)) if has_labels else None,
            checkpoints=str(self.work.checkpoints),
            log=str(self.work.log),
            stop_request=str(self.work.of_run("stop", self.name)),
            total_steps=total_steps,
            batch_size=spec.batch_size,
            micro_batch_size=spec.micro_batch_size,
            seed=spec.seed,
            role_weights=(spec.prompt_loss_weight, 1.0, spec.completion_loss_weight),
            optimizer=optimizer_config(spec, total_steps),
            fence=self.output.worker_fence(self.lease.token),
            lora=lora_of(self.request["identity"]),
            zero_stage=spec.zero_stage,
            offload=spec.offload,
            activation_checkpointing=spec.activation_checkpointing,
            save_steps=spec.save_steps,
            keep_checkpoints=spec.keep_checkpoints,
            eval_steps=eval_steps(spec, total_steps - self.first_step),
            selection=self.selection,
            start=start_checkpoint(self.request.get("start"), self.work, fresh_optimizer=spec.fresh_optimizer),
            first_step=self.first_step,
            threads=worker_threads(spec) if self.device == "cpu" else 0,
        )

    def _is_trained(self) -> bool:
        total, log = self.request["total_steps"], read_log(self.work.log)
        return is_trained(self.checkpoints(), log, total_steps=total, selection=self.selection)

    def checkpoints(self) -> list[TrainingCheckpoint]:
        return find_checkpoints(self.work.checkpoints, self.request["training"])


def _prepare(
    plan: FinetunePlan, output: TrainingOutput, lease: Lease, saved: dict[str, Any] | None, tell: Tell | None
) -> _Run:
    """Resolve device and dtype, and write the data and the request, or use the `saved` request.

    Evaluation data are written every time: they may change between runs.
    """
    spec = plan.spec
    device = choose_device(spec.device, spec.workers)
    refuse_too_many(spec.workers, device)
    if tell is not None and device == "cpu" and not is_cluster(spec.address) and spec.workers > usable_cores():
        tell(workers_note(spec.workers))
    dtype = saved["dtype"] if saved is not None else resolve_dtype(device) if spec.dtype == "auto" else spec.dtype
    if dtype == "float16" and device == "cpu":
        raise RequestError("--dtype float16 needs GPUs for training; give bfloat16 or float32 on CPUs")
    request = saved or {
        "identity": plan.identity(),
        "dtype": dtype,
        "seq_length": plan.seq_length,
        "packing": plan.packing,
    }
    if saved is None and plan.start is not None:
        request |= {"start": plan.start.to_json()}
    request |= {"training": training_id(request)}
    lease.announce(request["training"])
    run = _Run(name=uuid4().hex[:8], plan=plan, output=output, lease=lease, request=request, device=device)
    if isinstance(output, StoredOutput):
        lease.token.guard(output.remove_unstarted)  # trainings that the store has no more
        output.bring_checkpoints(request["training"], keeps_best=spec.keep == "best", tell=tell)
    if not run.checkpoints():
        bring_start(request.get("start"), run.work, plan.storage)
    lease.token.guard(lambda: run.work.remove_runs(but=run.name))
    run.evaluation_rows.update(_write_evaluation(run, tell))
    if saved is None or not run.work.data.is_dir():
        if tell is not None:
            for files in filter(None, (plan.training, plan.evaluation, plan.labelled)):
                for line in files.notes:
                    tell(line)
            tell(f"Reading {plan.training.rows:,} rows ...")
        _write_data(run, tell)
    return run


def _write_data(run: _Run, tell: Tell | None) -> None:
    """Write the sequences to train on and then the request, which gets their counts."""
    plan, spec = run.plan, run.plan.spec
    written, guard = run.work.of_run("train", run.name), run.lease.token.guard
    corpus = replace(_corpus_config(plan, limit=spec.limit, packing=plan.packing, seed=spec.seed), sources=plan.sources)
    counts = write_corpus(written, plan.training, plan.storage, plan.documents(), corpus)
    if tell is not None:
        tell_of_rows(counts, tell)
    total = total_steps(spec, counts["sequences"])
    check_steps(run.first_step, total)
    run.request.update({"total_steps": total} | counts)
    guard(lambda: run.work.publish_data(written))
    guard(lambda: run.output.write_request(run.request))


def _write_evaluation(run: _Run, tell: Tell | None) -> dict[str, Any]:
    """Write the sequences of the evaluations. Returns the counts of their rows, by the names of the settings."""
    plan, limit = run.plan, run.plan.spec.eval_limit
    counts: dict[str, Any] = {}
    if plan.evaluation is not None:
        folder = run.work.of_run("eval", run.name)
        corpus = _corpus_config(plan, limit=limit, packing=plan.packing, seed=None)
        counts["eval_input"] = write_corpus(folder, plan.evaluation, plan.storage, plan.documents(), corpus)
    if plan.labelled is not None:
        folder = run.work.of_run("labels", run.name)
        corpus = _corpus_config(plan, limit=limit, packing="single", seed=None)
        prompts = plan.labelled_prompts()
        counts["label_input"] = write_corpus(folder, plan.labelled, plan.storage, prompts, corpus)
        write_label_file(folder, prompts, plan.label_tokens(), plan.label_ends())
    for name, each in counts.items():
        if tell is not None:
            tell_of_rows(each, tell, of=flag_name(name))
    return counts


def _corpus_config(plan: FinetunePlan, *, limit: int | None, packing: str, seed: int | None) -> CorpusConfig:
    return CorpusConfig(
        packing=packing,
        seq_length=plan.seq_length,
        limit=limit,
        seed=seed,
        max_error_rate=plan.spec.max_error_rate,
    )
