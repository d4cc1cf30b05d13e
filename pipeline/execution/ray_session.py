"""Ray for one job: connects to a cluster or starts Ray on this machine, and configures Ray Data."""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray.data import DataContext

from tirazh.actors.placement import release_leftovers
from tirazh.errors import JobError, RequestError
from tirazh.pipeline.execution.backpressure import limit_parts_in_flight
from tirazh.pipeline.spec import JobSpec, parse_replicas

# Consecutive replicas that may die before they serve until the job fails: one, because a node can
# be lost.
_MAX_INIT_DEATHS = 1


@contextmanager
def ray_session(spec: JobSpec) -> Iterator[None]:
    """Inside the block, Ray is connected, with the resources that the job needs (see `ray_cluster`)."""
    # Each rank reserves a CPU for its lifetime. These come on top of the cores, for the tasks that
    # read and write.
    with ray_cluster(spec.address, extra_cpus=parse_replicas(spec.replicas)[1] * spec.tensor_parallel):
        yield


@contextmanager
def ray_cluster(address: str | None, *, extra_cpus: int) -> Iterator[None]:
    """Inside the block, Ray is connected.

    An existing connection is used and kept. Ray that is started on this machine reports
    `extra_cpus` CPUs more than the machine has cores, and ends with the block. Raises RequestError
    if the cluster of --address does not answer, JobError if Ray cannot be started.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    handler = signal.getsignal(signal.SIGTERM)
    if is_cluster(address):
        _join(address, quiet)
    else:
        _start(extra_cpus, quiet)
    _restore_sigterm(handler)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def freeing_replicas() -> Iterator[None]:
    """At the end of the block, release the replicas' resources; Ray would keep them until the driver ends."""
    try:
        yield
    finally:
        release_leftovers()


def resolve_device(spec: JobSpec) -> str:
    """Resolve `--device auto` to "cuda" if Ray has enough GPUs for a replica, else to "cpu".

    Raises RequestError for --device cuda on a single machine without enough GPUs. A cluster may still
    grow; `tirazh.actors.placement.refuse_impossible` checks that.
    """
    gpus = ray.cluster_resources().get("GPU", 0)
    if spec.device == "cuda" and gpus < spec.tensor_parallel and not is_cluster(spec.address):
        raise RequestError(f"--device cuda with --tensor-parallel {spec.tensor_parallel}: Ray sees {gpus:g} GPUs here")
    return "cuda" if spec.device == "cuda" or (spec.device == "auto" and gpus >= spec.tensor_parallel) else "cpu"


def choose_step_cpus(spec: JobSpec) -> int:
    """The CPUs that a read, prompt or write task reserves: 1, or 0 if the ranks reserve (nearly) all CPUs.

    In that case a task that needs a CPU would wait forever.
    """
    ranks = parse_replicas(spec.replicas)[1] * spec.tensor_parallel
    return 1 if ray.cluster_resources().get("CPU", 0) >= ranks + 2 else 0


def share_threads(spec: JobSpec, device: str) -> int:
    """The CPU threads of one rank; 0 lets the replica decide. Replicas on one machine share its cores."""
    if spec.threads or device != "cpu" or len(ray.nodes()) > 1:
        return spec.threads
    ranks = parse_replicas(spec.replicas)[1] * spec.tensor_parallel
    return max(1, _cores() // ranks) if ranks > 1 else 0


@contextmanager
def data_settings(*, max_parts_in_flight: int | None = None) -> Iterator[DataContext]:
    """Inside the block, Ray Data keeps parts whole, prints nothing and limits the parts in flight."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Ray warns about fields that are not used here
        context = DataContext.get_current().copy()
    if max_parts_in_flight is not None:
        limit_parts_in_flight(context, max_parts_in_flight)
    context.target_max_block_size = None  # Ray Data would split a larger block
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True  # a wrapped TirazhError would not reach the driver
    context.max_consecutive_actor_init_deaths = _MAX_INIT_DEATHS
    context.actor_pool_max_upscaling_delta = 1_000  # start all replicas at once, not one after the other
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # failures are raised with their tracebacks; they need not be logged too
    try:
        with DataContext.current(context):
            yield context
    finally:
        logger.setLevel(level)


def is_cluster(address: str | None) -> bool:
    """Whether --address or RAY_ADDRESS names a cluster; otherwise Ray is started on this machine."""
    return bool(address or os.environ.get("RAY_ADDRESS"))


def _restore_sigterm(handler: Any) -> None:
    """Restore the caller's SIGTERM handler, or else Ray's Python handler (sys.exit).

    The C++ handler that ray.init installs prints a stack trace and aborts the process if the shutdown
    takes longer than three seconds.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler if callable(handler) else signal.getsignal(signal.SIGTERM))


def _join(address: str | None, quiet: dict[str, Any]) -> None:
    if address and address.startswith(("http://", "https://")):
        raise RequestError(
            f"--address {address} is the job server of a cluster: submit the job with `tirazh submit`, or give the "
            "address of the cluster (host:6379, or auto on one of its machines)"
        )
    try:
        ray.init(address=address or "auto", **quiet)
    except (ConnectionError, TimeoutError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RequestError(f"no Ray cluster answers at {address or 'RAY_ADDRESS'}: {reason}") from error


def _start(extra_cpus: int, quiet: dict[str, Any]) -> None:
    try:
        with _private_token():
            ray.init(address="local", num_cpus=_cores() + extra_cpus, include_dashboard=False, **quiet)
    except Exception as error:
        # Ray 2.60 raises a bare Exception if its node does not start in time, for example on an
        # overloaded machine.
        if type(error) is not Exception and not isinstance(error, OSError | RuntimeError | ValueError):
            raise
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise JobError(f"Ray could not be started on this machine: {reason}") from error


@contextmanager
def _private_token() -> Iterator[None]:
    """Restrict Ray's token file to this user.

    Ray 2.60 protects the processes that it starts with a token (unless RAY_AUTH_MODE disables it), but
    creates the token file readable for all users of the machine.
    """
    token = Path.home() / ".ray" / "auth_token"
    with suppress(OSError):
        token.parent.mkdir(mode=0o700, exist_ok=True)
    yield
    with suppress(OSError):
        if token.stat().st_mode & 0o077:
            token.chmod(0o600)


def _cores() -> int:
    return len(os.sched_getaffinity(0))
