"""What crosses between the pipeline, a replica and its ranks: frozen dataclasses, standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from model.config import ModelFlags
from model.requests import EngineJob

DType = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplicaConfig:
    """Everything a replica needs to start. `dtype` is settled (never "auto") by the time a replica sees it.

    `slots` sequences run at once; a sequence (prompt and completion) holds at most `seq_length` tokens.
    `threads_per_rank` 0 leaves torch its default. `device` is "cpu" or "cuda".
    """

    model: str
    flags: ModelFlags = ModelFlags()
    job: EngineJob = EngineJob()
    tensor_parallel: int = 1
    dtype: DType = "float32"
    device: str = "cpu"
    slots: int = 32
    seq_length: int = 2048
    threads_per_rank: int = 0
    cpus_per_rank: float = 1.0
    start_timeout_s: float = 600.0
    rank_timeout_s: float = 60.0
