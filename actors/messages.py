"""Messages between the pipeline, a replica and its ranks: frozen dataclasses, standard library
only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from tirazh.errors import RequestError, TirazhError, did_you_mean
from tirazh.model.config import ModelSettings, check_invariant_ranks
from tirazh.model.requests import EngineJob

DType = Literal["auto", "float32", "bfloat16", "float16", "int8"]
Invariant = Literal["tensor-parallel"]
ENGINES = ("model", "echo")
MODULE_PREFIX = "module:"


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplicaConfig:
    """What a replica needs to start. `dtype` is resolved, never "auto". Raises RequestError for
    impossible values.

    `slots` sequences run at once; a sequence (prompt and completion) has at most `seq_length`
    tokens. `threads_per_rank` 0 divides a node's cores among the replica's ranks on it. `device` is
    "cpu" or "cuda". `engine` is "model", "echo" (no model: what the pipeline alone costs), or
    "module:" and the name of an importable module with the functions of
    `tirazh.actors.engine_module.EngineModule`, which tests use. `run_id` tells the replicas of
    several runs in one Ray session apart. `invariant`: on what the bits of the results do not depend.
    `jobs`, at least one, are known from the start; more can be added while the replica runs. `rank_pool` is
    the name of the actor that keeps the ranks for the next step of a job (`rank_pool.py`); empty: they end
    with the replica. `fetch_model` returns the model's directory on the machine that calls it, for a `model`
    that is no directory.
    """

    model: str
    model_settings: ModelSettings = field(default_factory=ModelSettings)
    jobs: tuple[EngineJob, ...] = (EngineJob(),)
    tensor_parallel: int = 1
    invariant: Invariant | None = None
    dtype: DType = "float32"
    device: str = "cpu"
    slots: int = 32
    seq_length: int = 2048
    threads_per_rank: int = 0
    cpus_per_rank: float = 1.0
    start_timeout_s: float = 600.0
    rank_timeout_s: float = 60.0
    engine: str = "model"
    run_id: str = ""
    rank_pool: str = ""
    fetch_model: Callable[[], str] | None = None

    def __post_init__(self) -> None:
        for name in ("tensor_parallel", "slots", "seq_length"):
            if getattr(self, name) < 1:
                raise RequestError(f"a replica's {name} must be at least 1, not {getattr(self, name)}")
        if not self.jobs:
            raise RequestError("a replica's jobs must hold at least one job")
        for name in ("cpus_per_rank", "start_timeout_s", "rank_timeout_s"):
            if getattr(self, name) <= 0:
                raise RequestError(f"a replica's {name} must be above 0, not {getattr(self, name)}")
        if self.device not in ("cpu", "cuda"):
            raise RequestError(f"a replica's device must be cpu or cuda, not {self.device!r}")
        if self.dtype == "int8" and self.device != "cpu":
            raise RequestError("--dtype int8 runs on CPUs only; add --device cpu, or give another --dtype for GPUs")
        if self.invariant is not None:
            check_invariant_settings(self.tensor_parallel, self.dtype, self.device)
        if self.engine not in ENGINES and not self.engine.startswith(MODULE_PREFIX):
            raise RequestError(
                f"a replica's engine must be model, echo or module:NAME, not {self.engine!r}"
                f"{did_you_mean(self.engine, ENGINES)}"
            )

    def model_directory(self) -> str:
        """The directory of the model on this machine; fetches it first where that is needed. Raises TirazhError."""
        return self.model if self.fetch_model is None else self.fetch_model()


def check_invariant_settings(tensor_parallel: int, dtype: DType, device: str) -> None:
    """Raise RequestError for settings with which `--invariant tensor-parallel` cannot be kept."""
    check_invariant_ranks(tensor_parallel)
    if device == "cuda":
        raise RequestError(
            "--invariant tensor-parallel runs on CPUs only; add --device cpu, or leave --invariant out for GPUs"
        )
    if dtype == "float16":
        raise RequestError(
            "--invariant tensor-parallel has no kernels for --dtype float16; give --dtype float32, bfloat16 or int8, "
            "or leave --invariant out"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RankLocation:
    """Where a rank's process runs. `cores` are the CPU cores that the process may use."""

    rank: int
    node_id: str
    address: str
    pid: int
    cores: int

    def __str__(self) -> str:
        return f"rank {self.rank} (process {self.pid} on {self.address})"


@dataclass(frozen=True, kw_only=True, slots=True)
class RankReady:
    """A rank's report that it can serve. `weight_bytes` are those that this rank holds."""

    rank: int
    threads: int
    weight_bytes: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class RankFailure:
    """Why a rank has stopped whose process can still report it. `error` is set where it was an
    error of tirazh's own, such as a wrong request."""

    rank: int
    reason: str
    error: TirazhError | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplicaHeartbeat:
    """Rank 0's heartbeat. `count` grows with every layer of the model, every step and every idle
    round; `slowest_s` is the longest time in seconds between two of these. `is_busy`: requests are
    unfinished, or the other ranks have not answered yet."""

    count: int
    is_busy: bool
    slowest_s: float = 0.0
