"""What crosses between the pipeline, a replica and its ranks: frozen dataclasses, standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tirazh.errors import RequestError, TirazhError
from tirazh.model.config import ModelSettings
from tirazh.model.requests import EngineJob

DType = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplicaConfig:
    """Everything a replica needs to start. `dtype` is settled (never "auto") by the time a replica sees it.

    `slots` sequences run at once; a sequence (prompt and completion) holds at most `seq_length` tokens.
    `threads_per_rank` 0 shares the node's cores between the replica's ranks on it. `device` is "cpu" or "cuda".
    `engine` is "model", "echo" (answers every prompt with itself: what the machinery alone costs), or the name
    of a module with the same functions as `tirazh.actors.echo`.
    """

    model: str
    flags: ModelSettings = field(default_factory=ModelSettings)
    job: EngineJob = field(default_factory=EngineJob)
    tensor_parallel: int = 1
    dtype: DType = "float32"
    device: str = "cpu"
    slots: int = 32
    seq_length: int = 2048
    threads_per_rank: int = 0
    cpus_per_rank: float = 1.0
    start_timeout_s: float = 600.0
    rank_timeout_s: float = 60.0
    engine: str = "model"

    def __post_init__(self) -> None:
        for name in ("tensor_parallel", "slots", "seq_length"):
            if getattr(self, name) < 1:
                raise RequestError(f"a replica's {name} must be at least 1, not {getattr(self, name)}")
        for name in ("cpus_per_rank", "start_timeout_s", "rank_timeout_s"):
            if getattr(self, name) <= 0:
                raise RequestError(f"a replica's {name} must be above 0, not {getattr(self, name)}")
        if self.device not in ("cpu", "cuda"):
            raise RequestError(f"a replica's device must be cpu or cuda, not {self.device!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class RankLocation:
    """Where a rank's process runs. `cores` are those that the process may use."""

    rank: int
    node_id: str
    address: str
    pid: int
    cores: int

    def __str__(self) -> str:
        return f"rank {self.rank} (process {self.pid} on {self.address})"


@dataclass(frozen=True, kw_only=True, slots=True)
class RankReady:
    """What a rank says of itself when it can serve. `weight_bytes` are those that this rank holds."""

    rank: int
    threads: int
    weight_bytes: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class RankFailure:
    """Why a rank that is still able to speak has stopped. `error` is set where the user's request was wrong."""

    rank: int
    reason: str
    error: TirazhError | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplicaHeartbeat:
    """Rank 0's pulse: `beats` grows with every step and idle round; `is_busy` while requests are open."""

    beats: int
    is_busy: bool
