"""A group of training workers under Ray Train, connected by gloo or NCCL.

Ray Train watches the workers. When one dies it ends the group and starts a new one, which resumes
from the newest checkpoint, at most `max_restarts` times. When the command is interrupted, the
workers are asked to write a checkpoint.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import ray
import ray.train
from ray.exceptions import RayActorError
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError

from tirazh.actors.rendezvous import training_environment
from tirazh.actors.trainer import CONFIG, train_worker
from tirazh.actors.training_failures import FailureLog, cause_of, explain
from tirazh.errors import JobError, ReplicaError, RequestError, TirazhError
from tirazh.model.training.config import TrainingConfig

_POLL_S = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingGroupConfig:
    """`storage` is a directory that every worker can reach, for Ray Train's own state; `failures` a file that gets a
    line for each group that failed. `timeout_s` limits one collective operation."""

    workers: int
    max_restarts: int
    storage: str
    failures: str
    timeout_s: int = 1800


def refuse_too_many(workers: int, device: str) -> None:
    """Raise RequestError when Ray has fewer GPUs, or CPUs, than workers: the group would never
    start."""
    kind = "GPU" if device == "cuda" else "CPU"
    has = ray.cluster_resources().get(kind, 0)
    if has < workers:
        needed = f"needs 1 {kind}" if workers == 1 else f"need {workers} {kind}s"
        raise RequestError(f"--workers {workers} on --device {device} {needed}, but Ray has {has:g}")


def choose_device(device: str, workers: int) -> str:
    """Resolve `auto`: "cuda" if the connected Ray has a GPU for every worker, else "cpu"."""
    has_gpus = ray.cluster_resources().get("GPU", 0) >= workers
    return "cuda" if device == "cuda" or (device == "auto" and has_gpus) else "cpu"


def run_group(config: TrainingConfig, group: TrainingGroupConfig) -> None:
    """Run the training to its end. Raises a worker's own TirazhError, or ReplicaError with how the
    last group died."""
    is_one_host = len(ray.nodes()) == 1
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={CONFIG: config},
        torch_config=TorchConfig(backend="nccl" if config.device == "cuda" else "gloo", timeout_s=group.timeout_s),
        scaling_config=ScalingConfig(
            num_workers=group.workers, use_gpu=config.device == "cuda", resources_per_worker=_bundle(config.device)
        ),
        run_config=RunConfig(
            name=uuid4().hex,  # a new name: Ray Train must not resume from its own state of an earlier run
            storage_path=str(Path(group.storage)),
            failure_config=FailureConfig(max_failures=group.max_restarts),
            callbacks=[FailureLog(group.failures, config.fence), _EndsForReasons()],
            logging_config=LoggingConfig(log_level="ERROR"),
            worker_runtime_env={
                "env_vars": training_environment(device=config.device, threads=config.threads, is_one_host=is_one_host)
            },
        ),
    )
    stop_request = Path(config.stop_request)
    stop_request.parent.mkdir(parents=True, exist_ok=True)
    stop_request.unlink(missing_ok=True)
    failure = _fit(trainer, stop_request)
    if isinstance(failure, TrainingFailedError):
        raise _explained(failure, group) from failure
    if failure is not None:
        raise failure


class _EndsForReasons(UserCallback):  # type: ignore[misc]
    """Ends the run, without another group, when a worker has failed for a reason of its own, such as a full disk.

    Another group would fail in the same way. Runs in Ray Train's controller, which starts no group after an error of
    its own.
    """

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Called by Ray Train with the errors of the workers by their ranks."""
        for failure in worker_exceptions.values():
            cause = cause_of(failure)
            if isinstance(cause, TirazhError):
                raise ControllerError(cause)


def _fit(trainer: TorchTrainer, stop_request: Path) -> BaseException | None:
    """Run the trainer to its end in another thread; return what it raised.

    In the main thread Ray Train would replace our signal handler by its own, and a Ctrl-C would end
    the command with exit code 0. On an interrupt the workers are asked to stop, and the interrupt
    is raised here once they have written their checkpoint. The caller limits how long that may
    take.
    """
    failures: list[BaseException] = []
    # An event rather than the thread's join(): in Python 3.11 an interrupted join() makes the
    # thread look ended.
    has_ended = threading.Event()

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            failures.append(error)
        finally:
            has_ended.set()

    threading.Thread(target=fit, name="tirazh-train", daemon=True).start()
    try:
        _wait(has_ended)
    except BaseException:
        stop_request.touch()
        _wait(has_ended)
        raise
    return failures[0] if failures else None


def _wait(event: threading.Event) -> None:
    """Wait in short steps: Python handles signals between two of them."""
    while not event.wait(_POLL_S):
        pass


def _bundle(device: str) -> dict[str, float]:
    return {"CPU": 1.0} | ({"GPU": 1.0} if device == "cuda" else {})


def _explained(error: TrainingFailedError, group: TrainingGroupConfig) -> TirazhError:
    """Return the error of the worker that failed for a reason of its own; the others only lost
    their connection."""
    if isinstance(error, ControllerError) and isinstance(error.controller_failure, TirazhError):
        return error.controller_failure
    failures = error.worker_failures if isinstance(error, WorkerGroupError) else {}
    causes = {rank: cause_of(failure) for rank, failure in failures.items()}
    for cause in causes.values():
        if isinstance(cause, TirazhError):
            return cause
    times = f"{group.max_restarts + 1} times" if group.max_restarts else "once"
    if any(isinstance(cause, RayActorError) for cause in causes.values()):
        return ReplicaError(
            f"{explain(failures).describe()}; workers were started {times}; run the same command again to resume from "
            "the last checkpoint"
        )
    rank, cause = next(iter(causes.items()), (0, error))
    reason = " ".join(str(cause).split())[-300:]
    return JobError(f"training worker {rank} failed (tried {times}): {type(cause).__name__}: {reason}")
