"""The training loop: batches in the data's fixed order, steps, evaluations, checkpoints; goes on from the last one.

Every worker of the group runs it, over the process group that is there; it knows nothing of who started it. Called by
`actors/trainer.py`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tirazh.model.checkpoints.directory import open_checkpoint
from tirazh.model.load import load_pretrained
from tirazh.model.training.batch import Microbatch, TrainedModel, build_microbatch
from tirazh.model.training.batch_order import BatchOrder, num_microbatches, share
from tirazh.model.training.checkpoint import TrainingState, find_checkpoints, take_part, write_checkpoint
from tirazh.model.training.config import TrainingConfig
from tirazh.model.training.evaluation import label_accuracy, perplexity
from tirazh.model.training.label_file import LabelFile
from tirazh.model.training.log import TrainingLog
from tirazh.model.training.lora import add_lora
from tirazh.model.training.sequence_store import SequenceStore
from tirazh.model.training.zero import STATES, ZeroEngine


class Training:
    """One worker's part of a training, loaded and ready to go on from step `start_step`."""

    def __init__(self, plan: TrainingConfig) -> None:
        self.plan = plan
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self._store = SequenceStore(plan.train_data)
        self._order = BatchOrder(plan.seed, len(self._store), plan.batch_size)
        micro_steps = num_microbatches(plan.batch_size, world_size=self.world_size, size=plan.micro_batch_size)
        model = _trained_model(plan)
        trained = {name: p for name, p in model.base.named_parameters() if p.requires_grad}
        self._shapes = {name: tuple(weight.shape) for name, weight in trained.items()}
        # Low-rank changes are in no checkpoint yet; what DeepSpeed makes of them may be rounded.
        new = {name: weight.detach().clone() for name, weight in trained.items()} if plan.lora is not None else {}
        del trained
        self._engine = ZeroEngine(model, plan, micro_steps=micro_steps)
        self.start_step = self._resume(new)
        self._log = None
        if self.rank == 0:
            self._log = TrainingLog(Path(plan.log), start_step=self.start_step)

    def run(self) -> None:
        """Train to the last step; its checkpoint is what the model is made of. Stops early with a checkpoint when asked
        to, and without one, saying so in the log, when the loss is no number any more."""
        saved = self.start_step
        for step in range(self.start_step, self.plan.total_steps):
            if self._is_asked_to_stop():
                if step > saved:
                    self._save(step)
                break
            entry = self._step(step)
            self._note(entry)
            if not math.isfinite(entry["loss"]):
                self._note({"step": step + 1, "stopped": f"the loss is {entry['loss']} at step {step + 1}"})
                break
            is_last = step + 1 == self.plan.total_steps
            if is_last or (self.plan.eval_steps and (step + 1) % self.plan.eval_steps == 0):
                self._evaluate(step + 1)
            if is_last or (step + 1) % self.plan.save_steps == 0:
                self._save(step + 1)
                saved = step + 1
        if self._log is not None:
            self._log.close()

    def _step(self, step: int) -> dict[str, Any]:
        begun = time.monotonic()
        indices = self._order.batch(step)
        lengths = self._store.lengths(indices)
        own = share(indices, lengths, rank=self.rank, world_size=self.world_size, size=self.plan.micro_batch_size)
        rate = self.plan.optimizer.rate(step, self.plan.total_steps)
        loss, norm = self._engine.step(map(self._microbatch, own), self._total_weight(indices), rate)
        return {
            "step": step + 1,
            "loss": loss,
            "learning_rate": rate,
            "grad_norm": norm,
            "tokens": int(lengths.sum()) - len(lengths),
            "seconds": round(time.monotonic() - begun, 4),
        }

    def _microbatch(self, indices: list[int]) -> Microbatch:
        return build_microbatch([self._store.sequence(index) for index in indices], self.plan.role_weights)

    def _total_weight(self, indices: Any) -> float:
        """Of all workers' tokens; each knows it from the data, so nothing need be exchanged."""
        weights = torch.tensor(self.plan.role_weights, dtype=torch.float64)
        roles = [torch.from_numpy(self._store.sequence(int(index))[1][1:].astype("int64")) for index in indices]
        return float(weights[torch.cat(roles)].sum()) or 1.0

    def _evaluate(self, step: int) -> None:
        figures: dict[str, Any] = {}
        size, device = self.plan.micro_batch_size, self._engine.device
        with self._engine.evaluating() as model:
            if self.plan.eval_data is not None:
                store = SequenceStore(self.plan.eval_data)
                figures["perplexity"] = perplexity(model, store, self.plan.role_weights, size=size, device=device)
            if self.plan.label_data is not None:
                store, labels = SequenceStore(self.plan.label_data), LabelFile.read(Path(self.plan.label_data))
                figures |= label_accuracy(model, store, labels, size=size, device=device)
        if figures:
            self._note({"step": step} | figures)

    def _is_asked_to_stop(self) -> bool:
        """The first worker looks, so that all stop after the same step."""
        asked = torch.tensor(self.rank == 0 and Path(self.plan.stop_request).exists(), device=self._engine.device)
        dist.broadcast(asked, 0)
        return bool(asked)

    def _save(self, step: int) -> None:
        snapshot = TrainingState(
            step=step,
            shapes=self._shapes,
            states=STATES,
            gather=self._engine.gather,
            scalars=self._engine.scalars(),
        )
        if self.rank == 0:
            write_checkpoint(Path(self.plan.checkpoints), snapshot, keep=self.plan.keep_checkpoints)
        else:
            take_part(snapshot)
        dist.barrier()

    def _resume(self, new: Mapping[str, Tensor]) -> int:
        """Take up the newest checkpoint, or the model's own weights and the `new` ones; the first worker says which
        checkpoint, as another may not see it yet. Returns the steps that are done."""
        found = find_checkpoints(Path(self.plan.checkpoints))
        newest = torch.tensor(found[-1].step if found else 0, device=self._engine.device)
        dist.broadcast(newest, 0)
        step = int(newest)
        if step == 0:
            base = open_checkpoint(self.plan.model, self.plan.flags)
            self._engine.set_weights(lambda name: new[name] if name in new else base.read(name))
            return 0
        checkpoint = next(each for each in find_checkpoints(Path(self.plan.checkpoints)) if each.step == step)
        self._engine.restore(checkpoint.reader(self._shapes, STATES), checkpoint.state())
        return step

    def _note(self, entry: dict[str, Any]) -> None:
        if self._log is not None:
            self._log.add(entry)


def _trained_model(plan: TrainingConfig) -> TrainedModel:
    """The model in float32 on the CPU; DeepSpeed takes it from there."""
    model: Any = load_pretrained(plan.model, dtype="float32", flags=plan.flags).requires_grad_(True).train()
    if plan.lora is not None:
        model = add_lora(model, plan.lora, seed=plan.seed % (1 << 63))
    return TrainedModel(model, activation_checkpointing=plan.activation_checkpointing)
