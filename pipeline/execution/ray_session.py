"""Ray for one job: joins a cluster, or starts one on this machine, quietly; and how Ray Data must behave for us."""

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
from tirazh.pipeline.spec import JobSpec, parse_replicas

# Replicas that may die before they serve, one after the other, before the job is given up: a node can be lost.
_MAX_INIT_DEATHS = 1


@contextmanager
def ray_session(spec: JobSpec) -> Iterator[None]:
    """Ray for the time of a job's block, as `ray_cluster` has it."""
    # Ranks hold a CPU each for as long as they live: on top of the cores, reading and writing go on beside them.
    with ray_cluster(spec.address, extra_cpus=parse_replicas(spec.replicas)[1] * spec.tensor_parallel):
        yield


@contextmanager
def ray_cluster(address: str | None, *, extra_cpus: int) -> Iterator[None]:
    """Ray for the time of the block. One that runs already is used and left running; one on this machine, with that
    many CPUs more than it has cores, ends with the block. Raises RequestError when the cluster of --address does not
    answer."""
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
    _take_back_sigterm(handler)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def freeing_replicas() -> Iterator[None]:
    """Free what the replicas hold when the block ends, however it ends: Ray would keep it until the driver goes."""
    try:
        yield
    finally:
        release_leftovers()


def resolve_device(spec: JobSpec) -> str:
    """What `--device auto` means here: a GPU where the cluster has one. Raises RequestError when this machine, alone,
    has none; of a cluster, `tirazh.actors.placement.refuse_impossible` asks whether it may grow."""
    gpus = ray.cluster_resources().get("GPU", 0)
    if spec.device == "cuda" and gpus < spec.tensor_parallel and not is_cluster(spec.address):
        raise RequestError(f"--device cuda with --tensor-parallel {spec.tensor_parallel}: Ray sees {gpus:g} GPUs here")
    return "cuda" if spec.device == "cuda" or (spec.device == "auto" and gpus >= spec.tensor_parallel) else "cpu"


def choose_step_cpus(spec: JobSpec) -> int:
    """CPUs of a reading, prompting or writing task: 1, or 0 where ranks hold (nearly) all there are, since a task that
    waits for a CPU would then wait for ever."""
    ranks = parse_replicas(spec.replicas)[1] * spec.tensor_parallel
    return 1 if ray.cluster_resources().get("CPU", 0) >= ranks + 2 else 0


def share_threads(spec: JobSpec, device: str) -> int:
    """CPU threads of one rank; 0 leaves it to the replica. On one machine, replicas must not each take all cores."""
    if spec.threads or device != "cpu" or len(ray.nodes()) > 1:
        return spec.threads
    ranks = parse_replicas(spec.replicas)[1] * spec.tensor_parallel
    return max(1, _cores() // ranks) if ranks > 1 else 0


@contextmanager
def data_settings() -> Iterator[DataContext]:
    """Ray Data's settings inside the block: parts stay whole, and nothing is printed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Ray's, about fields that we do not touch
        context = DataContext.get_current().copy()
    context.target_max_block_size = None  # a larger block would reach the sink in pieces
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True  # wrapped, our own errors would not survive the way to the driver
    context.max_consecutive_actor_init_deaths = _MAX_INIT_DEATHS
    context.actor_pool_max_upscaling_delta = 1_000  # replicas start together, not one after the other
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # failures are raised, with their traces behind them
    try:
        with DataContext.current(context):
            yield context
    finally:
        logger.setLevel(level)


def is_cluster(address: str | None) -> bool:
    """Whether a cluster is named, by --address or the environment, and not to be started here."""
    return bool(address or os.environ.get("RAY_ADDRESS"))


def _take_back_sigterm(handler: Any) -> None:
    """Put the caller's handler back, or at least Ray's own in Python (sys.exit): the C++ one that ray.init leaves
    behind prints a stack, and aborts the process when closing down takes longer than three seconds."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler if callable(handler) else signal.getsignal(signal.SIGTERM))


def _join(address: str | None, quiet: dict[str, Any]) -> None:
    if address and address.startswith(("http://", "https://")):
        raise RequestError(
            f"--address {address} is a cluster's job server: send the job there with `tirazh submit`, or give the "
            "cluster's own address (host:6379, or auto on one of its machines)"
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
        # Ray 2.60 raises a bare Exception when its node does not come up in time, as on a machine with too much to do.
        if type(error) is not Exception and not isinstance(error, OSError | RuntimeError | ValueError):
            raise
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise JobError(f"Ray could not be started on this machine: {reason}") from error


@contextmanager
def _private_token() -> Iterator[None]:
    """Keep Ray's token to this user. Ray 2.60 guards what it starts here with a token (unless RAY_AUTH_MODE says
    otherwise) and makes the file, where there is none yet, readable by everybody on the machine."""
    token = Path.home() / ".ray" / "auth_token"
    with suppress(OSError):
        token.parent.mkdir(mode=0o700, exist_ok=True)
    yield
    with suppress(OSError):
        if token.stat().st_mode & 0o077:
            token.chmod(0o600)


def _cores() -> int:
    return len(os.sched_getaffinity(0))
