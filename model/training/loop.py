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
from tirazh.model.training.batch import Microbatch, TrainedModel, build_microbatch
from tirazh.model.training.batch_order import BatchOrder, num_microbatches, share
from tirazh.model.training.checkpoint import (
    TrainingCheckpoint,
    TrainingState,
    find_checkpoints,
    gather_with_writer,
    write_checkpoint,
)
from tirazh.model.training.config import TrainingConfig
from tirazh.model.training.disk_room import CHECKPOINT_BYTES_PER_WEIGHT
from tirazh.model.training.evaluation import label_accuracy, perplexity
from tirazh.model.training.label_file import LabelFile
from tirazh.model.training.log import TrainingLog
from tirazh.model.training.lora import add_lora
from tirazh.model.training.sequence_store import SequenceStore
from tirazh.model.training.zero import STATES, ZeroEngine

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
        self._order = BatchOrder(config.seed, len(self._store), config.batch_size)
        micro_steps = num_microbatches(config.batch_size, world_size=self.world_size, size=config.micro_batch_size)
        model = _build_model(config)
        trained = {name: p for name, p in model.base.named_parameters() if p.requires_grad}
        self._shapes = {name: tuple(weight.shape) for name, weight in trained.items()}
        # A first checkpoint needs the exact LoRA initialisation, which DeepSpeed may round to half
        # precision.
        new = {name: weight.detach().clone() for name, weight in trained.items()} if config.lora is not None else {}
        del trained
        self._engine = ZeroEngine(model, config, micro_steps=micro_steps)
        self.start_step = self._resume(new)
        self._log: TrainingLog | None = None
        if self.rank == 0:
            self._log = self._guard(lambda: TrainingLog(Path(config.log), start_step=self.start_step))

    @property
    def checkpoint_bytes(self) -> int:
        """The bytes of one checkpoint."""
        return CHECKPOINT_BYTES_PER_WEIGHT * sum(map(math.prod, self._shapes.values()))

    def measure(self, step: int) -> float:
        """Make a step without writing anything. Returns its seconds."""
        return float(self._step(step)["seconds"])

    def run(self) -> None:
        """Train to the last step, whose checkpoint becomes the exported model.

        Stops early with a checkpoint when the stop file exists, and without one, with a reason in
        the log, when the loss is not finite.
        """
        saved = self.start_step
        for step in range(self.start_step, self.config.total_steps):
            if self._is_stop_requested():
                if step > saved:
                    self._save(step)
                break
            entry = self._step(step)
            self._log_entry(entry)
            if not math.isfinite(entry["loss"]):
                self._log_entry({"step": step + 1, "stopped": f"the loss is {entry['loss']} at step {step + 1}"})
                break
            is_last = step + 1 == self.config.total_steps
            if is_last or (self.config.eval_steps and (step + 1) % self.config.eval_steps == 0):
                self._evaluate(step + 1)
            if is_last or (step + 1) % self.config.save_steps == 0:
                self._save(step + 1)
                saved = step + 1
        if self._log is not None:
            self._log.close()

    def _step(self, step: int) -> dict[str, Any]:
        started = time.monotonic()
        indices = self._order.batch(step)
        lengths = self._store.lengths(indices)
        own = share(indices, lengths, rank=self.rank, world_size=self.world_size, size=self.config.micro_batch_size)
        rate = self.config.optimizer.rate(step, self.config.total_steps)
        loss, norm = self._engine.step(map(self._microbatch, own), self._total_weight(indices), rate)
        return {
            "step": step + 1,
            "loss": loss,
            "learning_rate": rate,
            "grad_norm": norm,
            "tokens": int(lengths.sum()) - len(lengths),  # n tokens have n - 1 targets
            "seconds": round(time.monotonic() - started, 4),
        }

    def _microbatch(self, indices: list[int]) -> Microbatch:
        return build_microbatch([self._store.sequence(index) for index in indices], self.config.role_weights)

    def _total_weight(self, indices: Any) -> float:
        """Return the loss weight of all workers' tokens, which every worker computes from the data alone."""
        weights = torch.tensor(self.config.role_weights, dtype=torch.float64)
        roles = [torch.from_numpy(self._store.sequence(int(index))[1][1:].astype("int64")) for index in indices]
        # A batch without trained tokens has loss 0; its weight must not be a divisor of 0.
        return float(weights[torch.cat(roles)].sum()) or 1.0

    def _evaluate(self, step: int) -> None:
        metrics: dict[str, Any] = {}
        size, device = self.config.micro_batch_size, self._engine.device
        with self._engine.evaluating() as model:
            if self.config.eval_data is not None:
                store = SequenceStore(self.config.eval_data)
                metrics["perplexity"] = perplexity(model, store, self.config.role_weights, size=size, device=device)
            if self.config.label_data is not None:
                store, labels = SequenceStore(self.config.label_data), LabelFile.read(Path(self.config.label_data))
                metrics |= label_accuracy(model, store, labels, size=size, device=device)
        if metrics:
            self._log_entry({"step": step} | metrics)

    def _is_stop_requested(self) -> bool:
        """Return what the first worker sees, so that all workers stop after the same step."""
        requested = torch.tensor(self.rank == 0 and Path(self.config.stop_request).exists(), device=self._engine.device)
        dist.broadcast(requested, 0)
        return bool(requested)

    def _save(self, step: int) -> None:
        state = TrainingState(
            training=self.config.training,
            step=step,
            shapes=self._shapes,
            states=STATES,
            gather=self._engine.gather,
            scalars=self._engine.scalars(),
        )
        if self.rank == 0:
            folder, keep = Path(self.config.checkpoints), self.config.keep_checkpoints
            write_checkpoint(folder, state, keep=keep, fence=self.config.fence)
        else:
            gather_with_writer(state)
        dist.barrier()

    def _resume(self, new: Mapping[str, Tensor]) -> int:
        """Load the training's newest checkpoint, or the model's own weights and the `new` ones.

        Returns the number of completed steps. The first worker chooses the checkpoint: on a shared
        disk the others may not see it yet.
        """
        found = self._find_checkpoints() if self.rank == 0 else []
        newest = torch.tensor(found[-1].step if found else 0, device=self._engine.device)
        dist.broadcast(newest, 0)
        step = int(newest)
        if step == 0:
            base = open_checkpoint(self.config.model, self.config.model_settings)
            self._engine.set_weights(lambda name: new[name] if name in new else base.read(name))
            return 0
        checkpoint = next(each for each in self._find_checkpoints() if each.step == step)
        self._engine.restore(checkpoint.reader(self._shapes, STATES), checkpoint.state())
        return step

    def _find_checkpoints(self) -> list[TrainingCheckpoint]:
        return find_checkpoints(Path(self.config.checkpoints), self.config.training)

    def _log_entry(self, entry: dict[str, Any]) -> None:
        log = self._log
        if log is not None:
            self._guard(lambda: log.add(entry))

    def _guard(self, write: Callable[[], T]) -> T:
        return write() if self.config.fence is None else self.config.fence.guard(write)


def _build_model(config: TrainingConfig) -> TrainedModel:
    """Load the model in float32 on the CPU; DeepSpeed moves and converts it."""
    model: Any = load_pretrained(config.model, dtype="float32", settings=config.model_settings)
    model = model.requires_grad_(True).train()
    if config.lora is not None:
        model = add_lora(model, config.lora, seed=config.seed % (1 << 63))
    return TrainedModel(model, activation_checkpointing=config.activation_checkpointing)
