"""A group of training workers under Ray Train: started, joined by gloo or NCCL, started again when one dies, and asked
to write a checkpoint when the command is interrupted.

Called by the pipeline once the data are on disk. Ray Train watches the workers; a group that lost one is ended and
begins anew from the newest checkpoint, at most `max_restarts` times.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import ray
import ray.train
from ray.exceptions import RayActorError
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

from tirazh.actors.rendezvous import training_environment
from tirazh.actors.trainer import PLAN, train_worker
from tirazh.errors import JobError, ReplicaError, RequestError, TirazhError
from tirazh.model.training.config import TrainingConfig

_LOOK_EVERY_S = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingGroupConfig:
    """`storage` is a directory that every worker sees, for Ray Train's own notes; `timeout_s` bounds one collective."""

    workers: int
    max_restarts: int
    storage: str
    timeout_s: int = 1800


def refuse_too_many(workers: int, device: str) -> None:
    """Raise RequestError when Ray has fewer GPUs, or CPUs, than workers: the group would wait for ever."""
    kind = "GPU" if device == "cuda" else "CPU"
    has = ray.cluster_resources().get(kind, 0)
    if has < workers:
        raise RequestError(f"--workers {workers} on --device {device} need {workers} {kind}s, but Ray has {has:g} here")


def run_group(plan: TrainingConfig, group: TrainingGroupConfig) -> None:
    """Train to the end. Raises the worker's own TirazhError, or ReplicaError saying how the last group died."""
    is_one_host = len(ray.nodes()) == 1
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={PLAN: plan},
        torch_config=TorchConfig(backend="nccl" if plan.device == "cuda" else "gloo", timeout_s=group.timeout_s),
        scaling_config=ScalingConfig(
            num_workers=group.workers, use_gpu=plan.device == "cuda", resources_per_worker=_bundle(plan.device)
        ),
        run_config=RunConfig(
            name=uuid4().hex,  # Ray Train's own notes of an earlier run are not to be taken up
            storage_path=str(Path(group.storage)),
            failure_config=FailureConfig(max_failures=group.max_restarts),
            logging_config=LoggingConfig(log_level="ERROR"),
            worker_runtime_env={
                "env_vars": training_environment(device=plan.device, threads=plan.threads, is_one_host=is_one_host)
            },
        ),
    )
    stop_request = Path(plan.stop_request)
    stop_request.unlink(missing_ok=True)
    failure = _fit(trainer, stop_request)
    if isinstance(failure, TrainingFailedError):
        raise _explained(failure, group) from failure
    if failure is not None:
        raise failure


def _fit(trainer: TorchTrainer, stop_request: Path) -> BaseException | None:
    """Run it to its end; returns what it raised. Not in this thread: in the main one Ray Train puts a handler of its
    own in place of ours, and a Ctrl-C would end the command with exit code 0. An interrupt is raised here as soon as
    the workers, asked to stop, have written what they have done; how long that may take is the caller's affair."""
    failures: list[BaseException] = []
    # Not the thread itself is waited for: in Python 3.11 an interrupt during its join() makes it look ended.
    is_over = threading.Event()

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            failures.append(error)
        finally:
            is_over.set()

    threading.Thread(target=fit, name="tirazh-train", daemon=True).start()
    try:
        _wait(is_over)
    except BaseException:
        stop_request.touch()
        _wait(is_over)
        raise
    return failures[0] if failures else None


def _wait(event: threading.Event) -> None:
    """In steps: a signal is seen between two of them."""
    while not event.wait(_LOOK_EVERY_S):
        pass


def _bundle(device: str) -> dict[str, float]:
    return {"CPU": 1.0} | ({"GPU": 1.0} if device == "cuda" else {})


def _explained(error: TrainingFailedError, group: TrainingGroupConfig) -> TirazhError:
    """The sentence of the worker that failed first for a reason of its own; the others only lost it."""
    failures = error.worker_failures if isinstance(error, WorkerGroupError) else {}
    causes = {rank: _cause(failure) for rank, failure in failures.items()}
    for cause in causes.values():
        if isinstance(cause, TirazhError):
            return cause
    dead = next((rank for rank, cause in causes.items() if isinstance(cause, RayActorError)), None)
    times = f"{group.max_restarts + 1} times" if group.max_restarts else "once"
    if dead is not None:
        return ReplicaError(
            f"training worker {dead} died ({times} in all were workers started); the same command goes on from the "
            "last checkpoint"
        )
    rank, cause = next(iter(causes.items()), (0, error))
    reason = " ".join(str(cause).split())[-300:]
    return JobError(f"training worker {rank} failed ({times} tried): {type(cause).__name__}: {reason}")


def _cause(failure: BaseException) -> BaseException:
    """What is behind the wrappers of Ray and of Ray Train 2.60."""
    for name in ("cause", "_base_exc", "health_check_failure"):
        inner = getattr(failure, name, None)
        if isinstance(inner, BaseException) and inner is not failure:
            return _cause(inner)
    return failure
