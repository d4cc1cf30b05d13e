"""How the ranks of one replica find each other: places, ports, names and environment variables.

The only file that touches `os.environ`. No port is fixed: rank 0 opens the store on a free one, so that any number
of replicas can share a host. DeepSpeed names its shared memory after address and port, hence by replica too.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tirazh.actors.messages import RankLocation

LOOPBACK = "127.0.0.1"
# Tells `tirazh.model.tensor_parallel` that a directory of compiled operators is ours alone and built under this lock.
BUILD_LOCK_NAME = "tirazh.lock"


@dataclass(frozen=True, kw_only=True, slots=True)
class RankPlace:
    """One rank's place in its replica. `local_size` = ranks of the replica on this host, `threads` = torch threads
    of this rank, `port` 0 = alone, nobody to meet."""

    rank: int
    world_size: int
    local_rank: int
    local_size: int
    threads: int
    master_address: str = LOOPBACK
    port: int = 0

    @property
    def is_one_host(self) -> bool:
        return self.local_size == self.world_size


def assign_ranks(locations: Sequence[RankLocation], *, threads_per_rank: int = 0) -> list[RankPlace]:
    """Give every rank (in rank order) its place; `threads_per_rank` 0 shares a node's cores among its ranks."""
    nodes = [location.node_id for location in locations]
    is_one_host = len(set(nodes)) == 1
    return [
        RankPlace(
            rank=rank,
            world_size=len(nodes),
            local_rank=nodes[:rank].count(location.node_id),
            local_size=nodes.count(location.node_id),
            threads=threads_per_rank or max(1, location.cores // nodes.count(location.node_id)),
            master_address=LOOPBACK if is_one_host else locations[0].address,
        )
        for rank, location in enumerate(locations)
    ]


def environment(place: RankPlace, *, device: str) -> dict[str, str]:
    """The variables that torch and DeepSpeed read in a rank at this place."""
    variables = {
        "RANK": str(place.rank),
        "WORLD_SIZE": str(place.world_size),
        # Ray shows a rank its own GPU only, so that its index there is 0 on every rank.
        "LOCAL_RANK": "0" if device == "cuda" else str(place.local_rank),
        # Without it DeepSpeed's shared-memory all-reduce reads memory it never mapped.
        "LOCAL_SIZE": str(place.local_size),
        "MASTER_ADDR": place.master_address,
        "MASTER_PORT": str(place.port),
        "OMP_NUM_THREADS": str(place.threads),
        "DS_ACCELERATOR": device,
        "TORCH_EXTENSIONS_DIR": str(extensions_dir()),
        "TOKENIZERS_PARALLELISM": "false",
        # `ninja`, which compiles operators, lies beside a Python that may not have been activated.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
    }
    if place.is_one_host and sys.platform == "linux":
        # Works without a network and where the host's own name does not resolve (containers).
        variables["GLOO_SOCKET_IFNAME"] = "lo"
    return variables


def training_environment(*, device: str, threads: int, is_one_host: bool) -> dict[str, str]:
    """The variables of a training worker, besides those by which Ray Train tells it its place. Needed before
    its process starts: OpenMP reads its own only once."""
    variables = {
        "DS_ACCELERATOR": device,
        "TORCH_EXTENSIONS_DIR": str(extensions_dir()),
        "TOKENIZERS_PARALLELISM": "false",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
    }
    if threads:
        # Threads that spin while they wait take the cores from the other workers.
        variables |= {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    if is_one_host and sys.platform == "linux":
        variables["GLOO_SOCKET_IFNAME"] = "lo"
    return variables


def enter(place: RankPlace, *, device: str) -> None:
    """Set this process's environment. Call before torch is imported: OpenMP reads its variable only once."""
    os.environ.update(environment(place, device=device))


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_store(place: RankPlace, *, timeout_s: float) -> Any:
    """Open the store at which the ranks meet, on rank 0. The system chooses the port: `.port` of the result."""
    return _tcp_store(place, is_master=True, timeout=timedelta(seconds=timeout_s))


def join(place: RankPlace, *, device: str, timeout_s: float, store: Any = None) -> None:
    """Join the replica's process group; returns when all ranks have. `store` is rank 0's own.

    Raises torch.distributed errors when a rank does not come within `timeout_s`.
    """
    import torch.distributed as dist

    timeout = timedelta(seconds=timeout_s)
    dist.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        store=_tcp_store(place, is_master=False, timeout=timeout) if store is None else store,
        rank=place.rank,
        world_size=place.world_size,
        timeout=timeout,
    )
    # Leftovers of a killed process that had the same port would be taken for this replica's memory.
    remove_shared_memory(place)
    wait_for_all()


def wait_for_all() -> None:
    """Wait until every rank of the process group has come this far."""
    import torch.distributed as dist

    dist.barrier()


def remove_shared_memory(place: RankPlace) -> None:
    """Remove the names of the replica's shared memory. Once every rank has mapped it, it goes on working without
    names, and the system frees it however the processes end. The first rank to come here removes all of them, so
    that one killed a moment later leaves nothing."""
    for name in shared_memory_names(place):
        Path("/dev/shm", name).unlink(missing_ok=True)


def shared_memory_names(place: RankPlace) -> list[str]:
    """DeepSpeed's names for the segments of the replica's ranks (csrc/cpu/comm/shm.cpp)."""
    if not hasattr(os, "getuid"):
        return []
    prefix = f"deepspeed_allreduce_buffer_{os.getuid()}_{place.master_address}_{place.port}"
    return [f"{prefix}_{rank}" for rank in range(place.world_size)]


def _tcp_store(place: RankPlace, *, is_master: bool, timeout: timedelta) -> Any:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    host, port = place.master_address, place.port
    return TCPStore(host, port, place.world_size, is_master, timeout=timeout, wait_for_workers=False)


def extensions_dir() -> Path:
    """Where compiled operators live: a directory of tirazh's own (the lock file says so), one for every version."""
    versions = f"py{sys.version_info.major}{sys.version_info.minor}-" + "-".join(
        f"{name}{version(name)}" for name in ("torch", "deepspeed")
    )
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    for folder in (cache / "tirazh", Path(tempfile.gettempdir()) / f"tirazh-{os.getuid()}"):
        home = folder / "torch_extensions" / versions
        with contextlib.suppress(OSError):
            home.mkdir(parents=True, exist_ok=True)
            (home / BUILD_LOCK_NAME).touch()
            return home
    return home
