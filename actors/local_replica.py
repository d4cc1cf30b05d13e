"""A replica of one rank in this process, without Ray: for a preview.

It builds the same runner and the same engine as a rank (`rank.py`), and so returns the same results.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tirazh.actors import rendezvous
from tirazh.actors.cores import threads_of_rank, usable_cores
from tirazh.actors.engine_module import Engine, load_engine_module
from tirazh.actors.messages import DType, ReplicaConfig
from tirazh.actors.progress import ProgressCounter
from tirazh.actors.rendezvous import RankPlace
from tirazh.errors import RequestError
from tirazh.model.requests import EngineCounters, EngineJob, Request, Result


class LocalReplica:
    """An engine that runs in the thread of its caller. `start_s` is how long the model took to load, in seconds."""

    def __init__(self, engine: Engine, start_s: float) -> None:
        self._engine = engine
        self.start_s = start_s

    def run(self, requests: Sequence[Request]) -> list[Result]:
        """Run requests and return their results in the same order."""
        ids = self._engine.add(requests)
        results: dict[int, Result] = {}
        while len(results) < len(ids):
            results.update(self._engine.step())
        return [results[request_id] for request_id in ids]

    def add_job(self, job: EngineJob) -> int:
        """Return the index by which requests name a job; an equal job keeps the index that it has.

        Raises RequestError for a job that cannot be run.
        """
        return self._engine.add_job(job)

    @property
    def counters(self) -> EngineCounters:
        """The engine's totals."""
        return self._engine.counters


def local_device(wanted: str) -> str:
    """Return "cuda" or "cpu" for `--device`: auto means a GPU if there is one. Loads torch, except for "cpu"."""
    if wanted == "cpu":
        return wanted
    with rendezvous.bounded_spinning():
        import torch

    if torch.cuda.is_available():
        return "cuda"
    if wanted == "cuda":
        raise RequestError("--device cuda: this process sees no CUDA GPU; run it on a machine with one")
    return "cpu"


def local_dtype(device: str) -> DType:
    """Return the fastest dtype on this machine, as `resolve_dtype` does on a machine of a Ray cluster."""
    with rendezvous.bounded_spinning():
        from tirazh.model.layers.dtype_probe import resolve_dtype

    dtype: DType = resolve_dtype(device)  # type: ignore[assignment]
    return dtype


@contextmanager
def local_replica(config: ReplicaConfig, *, needed_bytes: int = 0) -> Iterator[LocalReplica]:
    """Load the model and yield its replica; afterwards the environment and torch's threads are as before.

    `config.tensor_parallel` is ignored: there is one rank. `needed_bytes` is the memory that the model takes. Raises
    RequestError if this process has less.
    """
    began = time.monotonic()
    _refuse_too_large(config.device, needed_bytes)
    threads = threads_of_rank(usable_cores(), asked=config.threads_per_rank)
    place = RankPlace(rank=0, world_size=1, local_rank=0, local_size=1, threads=threads)
    with rendezvous.entered(place, device=config.device), _same_threads():
        module = load_engine_module(config.engine)
        try:
            runner = module.build_runner(config, place, ProgressCounter())
            engine = module.build_engine(config, runner, runner.execute)
        except MemoryError as error:
            raise _too_large(needed_bytes, None) from error
        except RuntimeError as error:
            if type(error).__name__ != "OutOfMemoryError":  # torch's, on a GPU
                raise
            raise _too_large(needed_bytes, None) from error
        yield LocalReplica(engine, time.monotonic() - began)


@contextmanager
def _same_threads() -> Iterator[None]:
    """Restore the number of torch's threads, which a runner sets for the whole process."""
    before = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None
    try:
        yield
    finally:
        if before is not None:
            sys.modules["torch"].set_num_threads(before)


def _refuse_too_large(device: str, needed_bytes: int) -> None:
    from tirazh.model.host_memory import free_host_bytes

    free = free_host_bytes() if device == "cpu" else None
    if free is not None and needed_bytes > free:
        raise _too_large(needed_bytes, free)


def _too_large(needed_bytes: int, free_bytes: int | None) -> RequestError:
    free = "more than is free" if free_bytes is None else f"but {free_bytes / 2**30:,.1f} GiB are free"
    return RequestError(
        f"the model takes {needed_bytes / 2**30:,.1f} GiB of memory in this process, {free}; run the preview on a "
        "larger machine, or the job itself with --limit on the cluster"
    )
