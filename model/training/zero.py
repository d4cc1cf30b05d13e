"""Trains a model with DeepSpeed's ZeRO, and gathers or restores its float32 state tensor by tensor.

DeepSpeed's own checkpoints are torch pickles sharded by worker. Those of `training/checkpoint.py`
are safetensors of unsharded tensors, which any number of workers can read at any ZeRO stage.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from tirazh.model.tensor_parallel import connect
from tirazh.model.training.batch import Microbatch, TrainedModel, build_microbatch
from tirazh.model.training.config import TrainingConfig

MASTER = "weights"
STATES = ("exp_avg", "exp_avg_sq")
ReadState = Callable[[str, str], Tensor]


class ZeroEngine:
    """A model and its optimizer, sharded as the config says.

    All workers call every method together.
    """

    def __init__(self, model: TrainedModel, config: TrainingConfig, *, micro_steps: int) -> None:
        connect(may_share_memory=False)
        import deepspeed

        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        self._config = config
        self._micro_steps = micro_steps
        self.world_size = dist.get_world_size()
        self.parameters = {name: p for name, p in model.base.named_parameters() if p.requires_grad}
        optimizer = torch.optim.AdamW(
            _groups(self.parameters, config.optimizer.weight_decay),
            lr=config.optimizer.learning_rate,
            betas=config.optimizer.betas,
            eps=config.optimizer.epsilon,
            fused=True,  # one pass over weights and states; the default makes eight
        )
        with contextlib.redirect_stdout(io.StringIO()):
            self._engine, self._optimizer, _, _ = deepspeed.initialize(
                model=model, optimizer=optimizer, config=deepspeed_config(config, self.world_size, micro_steps)
            )
        self.model: TrainedModel = self._engine.module
        self.is_unsharded = not hasattr(self._optimizer, "optimizer")
        if self.is_unsharded and self.world_size == 1:
            # Nothing to add up: DeepSpeed would copy all gradients into one buffer and back.
            self._engine.enable_backward_allreduce = False

    @property
    def device(self) -> str:
        return str(self._engine.device)

    def step(self, microbatches: Iterable[Microbatch], total_weight: float, rate: float) -> tuple[float, float]:
        """Make one update from the microbatches of all workers, whose loss weights sum to `total_weight`.

        Returns the weighted mean loss, and the gradient norm before gradient clipping (nan when
        float16 overflowed and the update was skipped).
        """
        self._engine.train()
        self._set_rate(rate)
        # DeepSpeed averages over microbatches and workers; the scale turns that into the weighted
        # mean over tokens.
        scale = self.world_size * self._micro_steps / total_weight
        loss_sum = torch.zeros((), device=self.device)
        norm = float("nan")
        for number, microbatch in enumerate(microbatches, start=1):
            batch = microbatch.to(self.device)
            loss = self._engine(batch.input_ids, batch.targets, batch.weights, layout=batch.layout)
            self._engine.backward(loss * scale)
            if self.is_unsharded and number == self._micro_steps:  # DeepSpeed does not store the norm in this case
                norm = float(get_total_norm([p.grad for p in self.parameters.values() if p.grad is not None]))
            self._engine.step()
            loss_sum += loss.detach()
        dist.all_reduce(loss_sum)
        if not self.is_unsharded and (known := self._engine.get_global_grad_norm()) is not None:
            norm = float(known)
        return float(loss_sum) / total_weight, norm

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[nn.Module]:
        """Yield the model for forward passes without gradients.

        Call the yielded module itself, not its submodules.
        """
        self._engine.eval()
        with torch.no_grad():
            yield self._engine
        self._engine.train()

    def gather(self, name: str, state: str) -> Tensor:
        """Gather a whole tensor, float32 on the CPU: a weight (`MASTER`) or its optimizer state (`STATES`)."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        parameter = self.parameters[name]
        if self.is_unsharded:
            whole: Tensor = parameter if state == MASTER else self._optimizer.state[parameter][state]
        elif state == MASTER:
            whole = safe_get_full_fp32_param(parameter)
        else:
            self._link_states()
            whole = safe_get_full_optimizer_state(parameter, state)
        return whole.detach().float().cpu()

    def set_weights(self, read: Callable[[str], Tensor]) -> None:
        """Set every weight to `read(name)`: the float32 master copy and the copy in the training dtype."""
        from deepspeed.runtime.zero import GatheredParameters
        from deepspeed.utils import safe_set_full_fp32_param

        for name, parameter in self.parameters.items():
            value = read(name).to(self.device, torch.float32)
            with GatheredParameters([parameter], modifier_rank=0, enabled=hasattr(parameter, "ds_id")):
                parameter.data.copy_(value)
            if not self.is_unsharded:
                safe_set_full_fp32_param(parameter, value)

    def restore(self, read: ReadState, scalars: Mapping[str, Any]) -> None:
        """Restore the state that `gather` and `scalars` returned.

        The optimizer allocates its state in its first step, so a step without effect is made first:
        learning rate 0, loss 0.
        """
        from deepspeed.utils import safe_set_full_optimizer_state

        empty = build_microbatch([], ())
        self.step([empty] * self._micro_steps, 1.0, rate=0.0)
        self.set_weights(lambda name: read(name, MASTER))
        self._link_states()
        for name, parameter in self.parameters.items():
            for state in STATES:
                value = read(name, state).to(self.device, torch.float32)
                if self.is_unsharded:
                    self._optimizer.state[parameter][state].copy_(value)
                else:
                    safe_set_full_optimizer_state(parameter, value, state)
        for values in self._inner.state.values():
            values["step"] = torch.as_tensor(values["step"]).new_tensor(scalars["updates"])
        scaler = getattr(self._optimizer, "loss_scaler", None)
        for key, value in dict(scalars.get("loss_scaler") or {}).items():
            setattr(scaler, key, value)

    def scalars(self) -> dict[str, Any]:
        """Return the state besides tensors: the number of updates, and the state of float16 loss scaling."""
        updates = next((int(values["step"]) for values in self._inner.state.values()), 0)
        scaler = (
            vars(getattr(self._optimizer, "loss_scaler", None) or object) if self._config.dtype == "float16" else {}
        )
        kept = {key: value for key, value in scaler.items() if isinstance(value, int | float)}
        return {"updates": updates, "loss_scaler": kept}

    @property
    def _inner(self) -> torch.optim.Optimizer:
        inner: torch.optim.Optimizer = self._optimizer if self.is_unsharded else self._optimizer.optimizer
        return inner

    def _link_states(self) -> None:
        """Make DeepSpeed link the optimizer state of every parameter group.

        DeepSpeed 0.19.8 links it once, after the first step of the first group, and misses the
        other groups.
        """
        if hasattr(self._optimizer, "_lazy_init_hp_params_optimizer_state"):
            self._optimizer._hp_optimizer_states_linked = False
            self._optimizer._lazy_init_hp_params_optimizer_state()

    def _set_rate(self, rate: float) -> None:
        for group in self._inner.param_groups:
            group["lr"] = rate


def deepspeed_config(training: TrainingConfig, world_size: int, micro_steps: int) -> dict[str, Any]:
    """Return DeepSpeed's configuration.

    ZeRO 0 in half precision runs as ZeRO 1, which computes the same: DeepSpeed's unsharded
    half-precision optimizer gave other losses from the second step on (0.19.8).
    """
    stage = training.zero_stage if training.dtype == "float32" else max(1, training.zero_stage)
    zero: dict[str, Any] = {"stage": stage}
    if training.offload != "none" and stage:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": training.device == "cuda"}
    if training.offload == "all":
        zero["offload_param"] = {"device": "cpu", "pin_memory": training.device == "cuda"}
    config: dict[str, Any] = {
        "train_batch_size": world_size * micro_steps,
        # DeepSpeed counts calls of forward, each of which gets a whole microbatch.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": micro_steps,
        "gradient_clipping": training.optimizer.max_grad_norm,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 60,  # never: its prints would mix with the command's output
    }
    if training.dtype != "float32":
        config["bf16" if training.dtype == "bfloat16" else "fp16"] = {"enabled": True}
    return config


def _groups(parameters: Mapping[str, nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Return the optimizer's parameter groups: weight decay for matrices, none for biases and norms."""
    matrices = [p for p in parameters.values() if p.ndim > 1]
    vectors = [p for p in parameters.values() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
