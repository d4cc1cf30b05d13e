"""Ray for one job: connects to a cluster, starts Ray on this machine, or shares what is connected."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from tirazh.actors.cores import usable_cores
from tirazh.errors import RequestError
from tirazh.pipeline.execution.cluster.address import check_answers, is_cluster, locate
from tirazh.pipeline.execution.local_ray import start_local
from tirazh.pipeline.execution.worker_imports import job_config
from tirazh.pipeline.spec import JobSpec, parse_replicas

Tell = Callable[[str], None]


@contextmanager
def ray_session(spec: JobSpec, *, tell: Tell | None = None) -> Iterator[None]:
    """Inside the block, Ray is connected, with the resources that the job needs (see `ray_cluster`)."""
    # Each rank reserves a CPU for its lifetime. These come on top of the cores, for the tasks that
    # read and write.
    extra_cpus = parse_replicas(spec.replicas)[1] * spec.tensor_parallel
    with ray_cluster(spec.address, extra_cpus=extra_cpus, tell=tell):
        yield


@contextmanager
def ray_cluster(address: str | None, *, extra_cpus: int, tell: Tell | None = None) -> Iterator[None]:
    """Inside the block, Ray is connected.

    A connection that the caller has made is used and kept. One that tirazh has made is shared by all
    runs of this process at the same time, and the last one closes it. Ray that is started on this
    machine reports `extra_cpus` + 1 CPUs more than the machine has cores. Raises RequestError if the
    cluster of --address does not answer or if another one is connected, JobError if Ray cannot be
    started.
    """
    connection = _enter(address, extra_cpus, tell)
    try:
        yield
    finally:
        _leave(connection)


def is_own_session() -> bool:
    """Whether Ray was started on this machine by tirazh, for the runs of this process alone."""
    with _lock:
        return _current is not None and _current.is_local and ray.is_initialized()


@dataclass(slots=True)
class _Connection:
    """A connection that tirazh has made. `users` are the runs that use it now."""

    close: Callable[[], None]
    is_local: bool
    users: int = 1


# Guards `_current`, and is held while Ray starts or stops.
_lock = threading.RLock()
_current: _Connection | None = None


def _enter(address: str | None, extra_cpus: int, tell: Tell | None) -> _Connection | None:
    """Connect, or use the existing connection. Returns None for one that the caller has made."""
    global _current
    with _lock:
        if ray.is_initialized():
            _refuse_another_cluster(address)
            if _current is not None:
                _current.users += 1
            return _current
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        handler = signal.getsignal(signal.SIGTERM)
        if is_cluster(address):
            _join(address, quiet)
            _current = _Connection(ray.shutdown, is_local=False)
        else:
            # One CPU more, of which a second run in this process takes shares (see `run_resources`).
            _current = _Connection(start_local(usable_cores() + extra_cpus + 1, quiet, tell), is_local=True)
        _restore_sigterm(handler)
        return _current


def _leave(connection: _Connection | None) -> None:
    global _current
    if connection is None:
        return
    with _lock:
        connection.users -= 1
        if connection.users or connection is not _current:
            return
        _current = None
        connection.close()


def _refuse_another_cluster(address: str | None) -> None:
    """Raise RequestError if --address names another cluster than the one that this process uses."""
    if not address or address == "auto":
        return
    if not is_cluster(address):
        return
    _, _, host, port = locate(address)
    connected = str(ray.get_runtime_context().gcs_address)
    connected_host, _, connected_port = connected.rpartition(":")
    if str(port) == connected_port and _ips(host) & _ips(connected_host.strip("[]")):
        return
    raise RequestError(
        f"--address {address}: this process already uses the Ray cluster at {connected}; leave out --address, or "
        "call ray.shutdown() first"
    )


def _ips(host: str) -> set[str]:
    """The addresses of a host. Ray replaces 127.0.0.1 by the machine's own address."""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return {host}
    if any(ip.startswith("127.") or ip == "::1" for ip in found):
        found |= {str(ray.util.get_node_ip_address()), "127.0.0.1"}
    return found


def resolve_device(spec: JobSpec) -> str:
    """Resolve `--device auto` to "cuda" if Ray has enough GPUs for a replica, else to "cpu".

    Raises RequestError for --device cuda on a single machine without enough GPUs. A cluster may still
    grow; `tirazh.actors.placement.refuse_impossible` checks that.
    """
    gpus = ray.cluster_resources().get("GPU", 0)
    if spec.device == "cuda" and gpus < spec.tensor_parallel and not is_cluster(spec.address):
        raise RequestError(f"--device cuda with --tensor-parallel {spec.tensor_parallel}: Ray sees {gpus:g} GPUs here")
    return "cuda" if spec.device == "cuda" or (spec.device == "auto" and gpus >= spec.tensor_parallel) else "cpu"


def share_threads(spec: JobSpec, device: str) -> int:
    """The CPU threads of one rank; 0 lets the replica decide. Replicas on one machine share its cores."""
    if spec.threads or device != "cpu" or len(ray.nodes()) > 1:
        return spec.threads
    ranks = parse_replicas(spec.replicas)[1] * spec.tensor_parallel
    return max(1, usable_cores() // ranks) if ranks > 1 else 0


def _restore_sigterm(handler: Any) -> None:
    """Restore the caller's SIGTERM handler, or else Ray's Python handler (sys.exit).

    The C++ handler that ray.init installs prints a stack trace and aborts the process if the shutdown
    takes longer than three seconds.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler if callable(handler) else signal.getsignal(signal.SIGTERM))


def _join(address: str | None, quiet: dict[str, Any]) -> None:
    check_answers(address)
    try:
        # The server of a ray:// client makes the job itself, without the client's working directory.
        is_client = (address or os.environ.get("RAY_ADDRESS", "")).startswith("ray://")
        job = {} if is_client else {"job_config": job_config()}
        ray.init(address=address or "auto", **job, **quiet)
    except (ConnectionError, TimeoutError, RuntimeError, ValueError, RayError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RequestError(f"no Ray cluster answers at {address or 'RAY_ADDRESS'}: {reason}") from error
