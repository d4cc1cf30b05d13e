"""Rendezvous of a replica's ranks: rank numbers, ports, environment variables and names of shared
memory.

The only file that reads or sets `os.environ`. No port is fixed: rank 0 opens the store on a free
port, so any number of replicas can share a host. DeepSpeed names its shared memory after address
and port, so each replica has its own names.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from tirazh.actors.cores import threads_of_rank
from tirazh.actors.cores import usable_cores as usable_cores
from tirazh.actors.messages import RankLocation

if TYPE_CHECKING:
    from torch._C._distributed_c10d import TCPStore

LOOPBACK = "127.0.0.1"
# Times that a waiting thread of OpenMP looks before it sleeps: 50 to 100 us, longer than Python takes from
# one kernel to the next.
SPIN_COUNT = 2000
# A file of this name tells `tirazh.model.tensor_parallel` that only tirazh builds operators in the
# directory, and only while it holds the lock on this file.
BUILD_LOCK_NAME = "tirazh.lock"


@dataclass(frozen=True, kw_only=True, slots=True)
class RankPlace:
    """A rank's number and where it connects to the others. `local_size`: ranks of the replica on
    this host; `threads`: torch threads of this rank; `port` 0: the replica has one rank and no
    store."""

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


def assign_ranks(
    locations: Sequence[RankLocation], *, threads_per_rank: int = 0, ray_cpus: Mapping[str, float] | None = None
) -> list[RankPlace]:
    """Assign ranks to processes, in the order of `locations`. `threads_per_rank` 0 divides a node's
    cores among its ranks; `ray_cpus` are the CPUs that Ray has on each node, by its id."""
    ray_cpus = ray_cpus or {}
    nodes = [location.node_id for location in locations]
    is_one_host = len(set(nodes)) == 1
    return [
        RankPlace(
            rank=rank,
            world_size=len(nodes),
            local_rank=nodes[:rank].count(location.node_id),
            local_size=nodes.count(location.node_id),
            threads=threads_of_rank(
                location.cores,
                ranks=nodes.count(location.node_id),
                ray_cpus=ray_cpus.get(location.node_id),
                asked=threads_per_rank,
            ),
            master_address=LOOPBACK if is_one_host else locations[0].address,
        )
        for rank, location in enumerate(locations)
    ]


def environment(rank_place: RankPlace, *, device: str) -> dict[str, str]:
    """Return the environment variables that torch and DeepSpeed read in a rank."""
    variables = {
        "RANK": str(rank_place.rank),
        "WORLD_SIZE": str(rank_place.world_size),
        # Ray shows each rank only its own GPU, so the GPU's index is 0 on every rank.
        "LOCAL_RANK": "0" if device == "cuda" else str(rank_place.local_rank),
        # Without it DeepSpeed's shared-memory all-reduce reads memory that it never mapped.
        "LOCAL_SIZE": str(rank_place.local_size),
        "MASTER_ADDR": rank_place.master_address,
        "MASTER_PORT": str(rank_place.port),
        "OMP_NUM_THREADS": str(rank_place.threads),
        "DS_ACCELERATOR": device,
        "TORCH_EXTENSIONS_DIR": str(extensions_dir()),
        "TOKENIZERS_PARALLELISM": "false",
        # `ninja`, which compiles operators, is installed beside Python; its directory is on PATH
        # only in an activated virtual environment.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        **waiting_variables(os.environ),
    }
    if rank_place.is_one_host and sys.platform == "linux":
        # The loopback interface works without a network, and where the host's own name does not
        # resolve (containers).
        variables["GLOO_SOCKET_IFNAME"] = "lo"
    return variables


def waiting_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that bound how long OpenMP's threads spin while they wait for one another.

    By default GCC's runtime, which torch and our kernels share, spins 300,000 times, 5 ms and more: longer
    than another process has a core at a time. So a thread whose core is busy with another process also
    keeps the core of the threads that wait for it, where it could go on. Where the user has decided how
    threads wait, nothing is changed. The runtimes of Intel and LLVM read a variable of their own, in
    milliseconds.
    """
    if any(environ.get(name) for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")):
        return {}
    return {"GOMP_SPINCOUNT": str(SPIN_COUNT), "KMP_BLOCKTIME": "1"}


def training_environment(*, device: str, threads: int, is_one_host: bool) -> dict[str, str]:
    """Return the environment variables of a training worker, besides those that Ray Train sets for
    its rank. They must be set before the process starts, because OpenMP reads its variables only
    once."""
    variables = {
        "DS_ACCELERATOR": device,
        "TORCH_EXTENSIONS_DIR": str(extensions_dir()),
        "TOKENIZERS_PARALLELISM": "false",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
    }
    if threads:
        # By default OpenMP's waiting threads spin, and so take the cores from the other workers.
        variables |= {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    if is_one_host and sys.platform == "linux":
        variables["GLOO_SOCKET_IFNAME"] = "lo"
    return variables


def enter(rank_place: RankPlace, *, device: str) -> None:
    """Set this process's environment variables. Call before torch is imported: OpenMP reads its
    variables only once."""
    os.environ.update(environment(rank_place, device=device))


@contextlib.contextmanager
def bounded_spinning() -> Iterator[None]:
    """Inside the block, OpenMP's variables are those of `waiting_variables`; import torch in it, which loads
    the runtime that reads them."""
    with _changed(waiting_variables(os.environ)):
        yield


@contextlib.contextmanager
def entered(rank_place: RankPlace, *, device: str) -> Iterator[None]:
    """Inside the block, this process has the environment variables of a rank; afterwards those that it had before."""
    with _changed(environment(rank_place, device=device)):
        yield


@contextlib.contextmanager
def _changed(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def open_store(rank_place: RankPlace, *, timeout_s: float) -> TCPStore:
    """Open the store through which the ranks connect, on rank 0. The system chooses its `port`."""
    return _tcp_store(rank_place, is_master=True, timeout=timedelta(seconds=timeout_s))


def join(rank_place: RankPlace, *, device: str, timeout_s: float, store: TCPStore | None = None) -> None:
    """Join the replica's process group; return when all ranks have joined. `store` is the one that
    rank 0 has opened.

    Raises errors of torch.distributed when a rank does not join within `timeout_s`.
    """
    import torch.distributed as dist

    timeout = timedelta(seconds=timeout_s)
    dist.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        store=_tcp_store(rank_place, is_master=False, timeout=timeout) if store is None else store,
        rank=rank_place.rank,
        world_size=rank_place.world_size,
        timeout=timeout,
    )
    # Shared memory that a killed process with the same port has left would be mistaken for this
    # replica's.
    remove_shared_memory(rank_place)
    wait_for_all()


def wait_for_all() -> None:
    """Wait until every rank of the process group has called this."""
    import torch.distributed as dist

    dist.barrier()


def remove_shared_memory(rank_place: RankPlace) -> None:
    """Remove the names of the replica's shared memory. Call it once every rank has mapped the
    memory: it works without a name too, and the system then frees it however the processes end. The
    first rank that calls this removes all names, so that a rank killed a moment later leaves none.
    """
    for name in shared_memory_names(rank_place):
        Path("/dev/shm", name).unlink(missing_ok=True)


def shared_memory_names(rank_place: RankPlace) -> list[str]:
    """Return DeepSpeed's names for the shared memory of the replica's ranks
    (csrc/cpu/comm/shm.cpp)."""
    if not hasattr(os, "getuid"):
        return []
    prefix = f"deepspeed_allreduce_buffer_{os.getuid()}_{rank_place.master_address}_{rank_place.port}"
    return [f"{prefix}_{rank}" for rank in range(rank_place.world_size)]


def _tcp_store(rank_place: RankPlace, *, is_master: bool, timeout: timedelta) -> TCPStore:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    host, port = rank_place.master_address, rank_place.port
    store: TCPStore = TCPStore(host, port, rank_place.world_size, is_master, timeout=timeout, wait_for_workers=False)
    return store


def extensions_dir() -> Path:
    """Return the directory of compiled operators, and make it. It is tirazh's own, as its lock file
    says, and there is one for each version of Python, torch and DeepSpeed."""
    versions = f"py{sys.version_info.major}{sys.version_info.minor}-" + "-".join(
        f"{name}{version(name)}" for name in ("torch", "deepspeed")
    )
    for folder in (*_user_cache(), Path(tempfile.gettempdir()) / f"tirazh-{os.getuid()}"):
        home = folder / "torch_extensions" / versions
        with contextlib.suppress(OSError):
            home.mkdir(parents=True, exist_ok=True)
            (home / BUILD_LOCK_NAME).touch()
            return home
    return home


def _user_cache() -> list[Path]:
    """Return tirazh's directory in the user's cache. There is none for a user without HOME who is
    not in the password file, as in containers that run with an arbitrary user id."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if cache:
        return [Path(cache, "tirazh")]
    with contextlib.suppress(RuntimeError):
        return [Path.home() / ".cache" / "tirazh"]
    return []
