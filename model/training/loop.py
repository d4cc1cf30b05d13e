"""The training loop: batches in a fixed order, optimizer steps, evaluations and checkpoints.

Every worker of the group runs it over the existing process group. It resumes from the newest
checkpoint on disk, and does not depend on what started the workers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from tirazh.model.checkpoints.directory import open_checkpoint
from tirazh.model.load import load_pretrained
from tirazh.model.training.batch import Microbatch, TrainedModel, read_microbatch, total_weight
from tirazh.model.training.batch_order import BatchOrder, Source, num_microbatches, share
from tirazh.model.training.checkpoint import (
    NonFiniteState,
    TrainingCheckpoint,
    TrainingState,
    find_checkpoints,
    gather_with_writer,
    write_checkpoint,
)
from tirazh.model.training.config import StartCheckpoint, TrainingConfig
from tirazh.model.training.disk_room import CHECKPOINT_BYTES_PER_WEIGHT
from tirazh.model.training.evaluation import label_accuracy, perplexity
from tirazh.model.training.label_file import LabelFile
from tirazh.model.training.log import TrainingLog
from tirazh.model.training.lora import add_lora
from tirazh.model.training.sequence_store import SequenceStore
from tirazh.model.training.zero import MASTER, STATES, ZeroEngine

T = TypeVar("T")


class Training:
    """One worker's part of a training run, loaded and ready to continue from step `start_step`.

    The first worker checks the fence before every write. It raises JobError when another run has
    taken over the output, which ends the group; the others only wait for it.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self._store = SequenceStore(config.train_data)
        sources = [Source(each["sequences"], each["weight"]) for each in self._store.facts.get("sources", ())]
        self._order = BatchOrder(config.seed, len(self._store), config.batch_size, sources=sources)
        micro_steps = num_microbatches(config.batch_size, world_size=self.world_size, size=config.micro_batch_size)
        model = _build_model(config)
        trained = {name: p for name, p in model.base.named_parameters() if p.requires_grad}
        self._shapes = {name: tuple(weight.shape) for name, weight in trained.items()}
        # A first checkpoint needs the exact LoRA initialisation, which DeepSpeed may round to half
        # precision.
        new = {name: weight.detach().clone() for name, weight in trained.items()} if config.lora is not None else {}
        del trained
        self._engine = ZeroEngine(model, config, micro_steps=micro_steps)
        found = self._find_newest()
        self._is_new = found is None
        self.start_step = config.first_step if found is None else found.step
        self._refusal = self._load(found, new)
        self._log: TrainingLog | None = None
        if self.rank == 0:
            kept = None if self._is_new else self.start_step
            self._log = self._guard(lambda: TrainingLog(Path(config.log), start_step=kept))

    @property
    def checkpoint_bytes(self) -> int:
        """The bytes of one checkpoint."""
        return CHECKPOINT_BYTES_PER_WEIGHT * sum(map(math.prod, self._shapes.values()))

    def measure(self, step: int) -> float:
        """Make a step without writing anything. Returns its seconds."""
        return float(self._step(step)["seconds"])

    def run(self) -> None:
        """Train to the last step, or until the evaluations are no longer better (`TrainingConfig.selection`).

        The checkpoint of the last step, or that of the best evaluation, becomes the exported model. Stops early with a
        checkpoint when the stop file exists, and without one, with a reason in the log, when the loss, the gradient
        norm or the weights are not finite. A new training is evaluated before its first step.
        """
        if self._refusal:
            self._log_entry({"step": self.start_step, "stopped": self._refusal})
        elif not self._is_new or not self._is_stop_requested():
            self._train()
        if self._log is not None:
            self._log.close()

    def _train(self) -> None:
        saved = self.start_step
        if self._is_new:
            self._evaluate(self.start_step)
        elif self._has_ended(self.start_step):
            return
        for done in range(self.start_step + 1, self.config.total_steps + 1):
            if self._is_stop_requested():
                if done - 1 > saved:
                    self._save(done - 1)
                return
            if not self._step_is_finite(done):
                return
            is_saved, has_ended = self._evaluate_if_due(done)
            if is_saved:
                if not self._save(done):
                    return
                saved = done
            if has_ended:
                return

    def _evaluate_if_due(self, done: int) -> tuple[bool, bool]:
        """Evaluate after every `eval_steps` steps and the last.

        Returns whether a checkpoint is due, and whether the evaluations end the training.
        """
        config = self.config
        is_last = done == config.total_steps
        is_best = has_ended = False
        if is_last or (config.eval_steps and done % config.eval_steps == 0):
            self._evaluate(done)
            is_best = self._is_best(done)
            has_ended = not is_last and self._has_ended(done)
        return is_last or is_best or has_ended or done % config.save_steps == 0, has_ended

    def _step_is_finite(self, done: int) -> bool:
        """Make one step. Returns False, with a reason in the log, when its figures are not finite."""
        entry = self._step(done - 1)
        self._log_entry(entry)
        reason = _not_finite(entry, self.config.dtype)
        if reason:
            self._log_entry({"step": done, "stopped": reason})
        return not reason

    def _step(self, step: int) -> dict[str, Any]:
        started = time.monotonic()
        indices = self._order.batch(step)
        num_targets = self._store.num_targets(indices)
        own = share(indices, num_targets, rank=self.rank, world_size=self.world_size, size=self.config.micro_batch_size)
        rate = self.config.optimizer.rate(step, self.config.total_steps)
        loss, norm = self._engine.step(map(self._microbatch, own), self._total_weight(indices), rate)
        return {
            "step": step + 1,
            "loss": loss,
            "learning_rate": rate,
            "grad_norm": norm,
            "tokens": int(num_targets.sum()),
            "seconds": round(time.monotonic() - started, 4),
        }

    def _microbatch(self, indices: list[int]) -> Microbatch:
        return read_microbatch(self._store, indices, self.config.role_weights)

    def _total_weight(self, indices: Any) -> float:
        # A batch without trained tokens has loss 0; its weight must not be a divisor of 0.
        return total_weight(self._store, indices, self.config.role_weights) or 1.0

    def _evaluate(self, step: int) -> None:
        metrics: dict[str, Any] = {}
        started = time.monotonic()
        size, device = self.config.micro_batch_size, self._engine.device
        with self._engine.evaluating() as model:
            if self.config.eval_data is not None:
                store = SequenceStore(self.config.eval_data)
                metrics["perplexity"] = perplexity(model, store, self.config.role_weights, size=size, device=device)
            if self.config.label_data is not None:
                store, labels = SequenceStore(self.config.label_data), LabelFile.read(Path(self.config.label_data))
                metrics |= label_accuracy(model, store, labels, size=size, device=device)
        if metrics:
            self._log_entry({"step": step} | metrics | {"seconds": round(time.monotonic() - started, 4)})

    def _is_best(self, step: int) -> bool:
        """Whether the evaluation of this step is the best so far, and its checkpoint may become the model."""
        if self.config.selection.keep != "best":
            return False
        best = self._best()
        return self._agree(best is not None and best == step)

    def _best(self) -> int | None:
        """Return the step of the best evaluation, as the first worker knows it."""
        if self._log is None or self.config.selection.keep != "best":
            return None
        best = self.config.selection.best(self._log.entries)
        return None if best is None else int(best["step"])

    def _has_ended(self, step: int) -> bool:
        """Whether no evaluation was better for so long that the training ends; then the log says so."""
        selection = self.config.selection
        if not selection.patience:
            return False
        end = None if self._log is None else selection.end_step(self._log.entries)
        has_ended = self._agree(end is not None and end <= step)
        if has_ended:
            name = selection.by.replace("_", "-")
            self._log_entry({"step": step, "ended": f"no better {name} in {selection.patience} evaluations"})
        return has_ended

    def _is_stop_requested(self) -> bool:
        """Return what the first worker sees, so that all workers stop after the same step."""
        return self._agree(self.rank == 0 and Path(self.config.stop_request).exists())

    def _agree(self, value: bool) -> bool:
        """Return the first worker's value on every worker."""
        shared = torch.tensor(value, device=self._engine.device)
        dist.broadcast(shared, 0)
        return bool(shared)

    def _save(self, step: int) -> bool:
        """Write a checkpoint. Returns False, with a reason in the log, when its values are not finite."""
        state = TrainingState(
            training=self.config.training,
            step=step,
            shapes=self._shapes,
            states=STATES,
            gather=self._engine.gather,
            scalars=self._engine.scalars(),
        )
        reason = ""
        if self.rank == 0:
            folder, keep = Path(self.config.checkpoints), self.config.keep_checkpoints
            try:
                write_checkpoint(folder, state, keep=keep, best=self._best(), fence=self.config.fence)
            except NonFiniteState as error:
                reason = str(error)
        else:
            gather_with_writer(state)
        if self._agree(not reason):
            return True
        self._log_entry({"step": step, "stopped": reason})
        return False

    def _find_newest(self) -> TrainingCheckpoint | None:
        """Return the training's newest checkpoint.

        The first worker chooses it: on a shared disk the others may not see it yet.
        """
        found = self._find_checkpoints() if self.rank == 0 else []
        newest = torch.tensor(found[-1].step if found else -1, device=self._engine.device)
        dist.broadcast(newest, 0)
        step = int(newest)
        return next(each for each in self._find_checkpoints() if each.step == step) if step >= 0 else None

    def _load(self, own: TrainingCheckpoint | None, new: Mapping[str, Tensor]) -> str:
        """Load the training's `own` checkpoint, that of another one, or the model's own weights and the `new` ones.

        Returns why the checkpoint cannot be used: its values are not finite. Every worker reads all of it and finds
        the same.
        """
        start = self.config.start
        if own is None and start is None:
            base = open_checkpoint(self.config.model, self.config.model_settings)
            self._engine.set_weights(lambda name: new[name] if name in new else base.read(name))
            return ""
        try:
            if own is not None:
                self._engine.restore(own.reader(self._shapes, STATES), own.state())
            elif start is not None:
                self._load_start(start)
        except NonFiniteState as error:
            return str(error)
        return ""

    def _load_start(self, start: StartCheckpoint) -> None:
        checkpoint = TrainingCheckpoint(Path(start.folder), start.step)
        if start.with_optimizer:
            self._engine.restore(checkpoint.reader(self._shapes, STATES), checkpoint.state())
        else:
            read = checkpoint.reader(self._shapes, ())
            self._engine.set_weights(lambda name: read(name, MASTER))

    def _find_checkpoints(self) -> list[TrainingCheckpoint]:
        return find_checkpoints(Path(self.config.checkpoints), self.config.training)

    def _log_entry(self, entry: dict[str, Any]) -> None:
        log = self._log
        if log is not None:
            self._guard(lambda: log.add(entry))

    def _guard(self, write: Callable[[], T]) -> T:
        return write() if self.config.fence is None else self.config.fence.guard(write)


def _not_finite(entry: Mapping[str, Any], dtype: str) -> str:
    """Say which figure of a step is not finite. In float16 a norm may be: that step's update is left out."""
    names = {"loss": "the loss", "grad_norm": "the gradient norm"} if dtype != "float16" else {"loss": "the loss"}
    for name, text in names.items():
        if not math.isfinite(entry[name]):
            return f"{text} is {entry[name]} at step {entry['step']}"
    return ""


def _build_model(config: TrainingConfig) -> TrainedModel:
    """Load the model in float32 on the CPU; DeepSpeed moves and converts it."""
    model: Any = load_pretrained(config.model, dtype="float32", settings=config.model_settings)
    model = model.requires_grad_(True).train()
    if config.lora is not None:
        model = add_lora(model, config.lora, seed=config.seed % (1 << 63))
    return TrainedModel(model, activation_checkpointing=config.activation_checkpointing)
