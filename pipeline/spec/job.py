"""The settings that all jobs over rows share."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tirazh.actors.messages import DType, Invariant, check_invariant_settings
from tirazh.errors import RequestError
from tirazh.pipeline.schema import Kind
from tirazh.pipeline.settings import Spec, check_at_least, check_fraction, check_seconds, setting
from tirazh.pipeline.shared_settings import TRAINING_DTYPES, Truncate, shared_setting

ADDRESSES = ("input", "output", "model", "tokenizer", "deepspeed_config", "examples", "address", "endpoint_url")
# Sequences that a replica runs at once by default.
_DEFAULT_SLOTS = {"cpu": 64, "cuda": 256}


@dataclass(frozen=True, kw_only=True)
class JobSpec(Spec):
    """The settings of every kind of job."""

    input: tuple[str, ...] = shared_setting("input")
    output: str = shared_setting("output", more=" for the Parquet files, the manifest and the report")
    model: str = shared_setting("model")
    prefix: str = setting("", "prefix for the names of the output columns that tirazh adds", identity=True)
    template: str | None = shared_setting("template")
    truncate: Truncate | None = shared_setting("truncate")  # noqa: RUF009 - a field() call
    seq_length: int | None = shared_setting("seq_length")
    limit: int | None = shared_setting("limit")
    dtype: DType = shared_setting(  # noqa: RUF009
        "dtype",
        more="; int8 (on CPUs, never selected by auto) rounds weights and inputs of linear layers to 8 bits: faster, "
        "and about half the memory of bfloat16",
        choices=(*TRAINING_DTYPES, "int8"),
    )
    sparse_mode: str | None = shared_setting("sparse_mode")
    num_attention_heads: int | None = shared_setting("num_attention_heads")
    fix_sparsity_layout: int | None = shared_setting("fix_sparsity_layout")
    deepspeed_config: str | None = shared_setting("deepspeed_config")
    preset: str | None = shared_setting("preset")
    tokenizer: str | None = shared_setting("tokenizer")
    replicas: str = setting("1", "number of model replicas: N, or MIN:MAX for autoscaling")
    tensor_parallel: int = setting(1, "tensor-parallel size: ranks (GPUs, or CPU processes) per replica")
    invariant: Invariant | None = setting(  # noqa: RUF009 - a field() call
        None,
        "tensor-parallel: rows have the same bits with --tensor-parallel 1, 2 and 4; on CPUs, for ruGPT-3 models, and "
        "somewhat slower",
        identity="if given",
        choices=("tensor-parallel",),
    )
    device: str = shared_setting("device")
    slots: int | None = setting(
        None,
        "maximum number of sequences a replica processes at once, by continuous batching (default: 64 on CPUs; on GPUs "
        "256, or as many as fit in memory)",
    )
    threads: int = shared_setting("threads")
    address: str | None = shared_setting("address")
    endpoint_url: str | None = shared_setting("endpoint_url")
    part_rows: int | None = setting(None, "rows per output part (default: sized by estimated tokens)")
    max_error_rate: float = shared_setting("max_error_rate")
    rank_timeout_s: float = setting(
        60.0, "heartbeat timeout of a replica in seconds; a replica that makes no progress for so long is restarted"
    )
    start_timeout_s: float = setting(
        600.0, "timeout in seconds for starting a replica, including the wait for cluster resources"
    )
    lease_s: float = shared_setting("lease_s")
    overwrite: bool = shared_setting("overwrite")
    append: bool = setting(
        False, "answer the rows of files that were added to the input since the output was complete, and add them to it"
    )
    key: str | None = setting(
        None, "with --append: column that identifies a row; rows whose value is in the output already are left out"
    )
    retry_failed: bool = setting(False, "answer the rows of a complete output again that have an error")
    allow_empty: bool = setting(False, "an input without files or rows gives an empty output instead of an error")

    def __post_init__(self) -> None:
        self.check_paths(addresses=ADDRESSES, needs_input=self.needs_input)
        self._check_numbers()
        if self.prefix and not re.fullmatch(r"\w+", self.prefix):
            raise RequestError(f"--prefix may contain only letters, digits and _, not {self.prefix!r}")
        self.check_choices()
        if self.dtype == "int8" and self.device == "cuda":
            raise RequestError("--dtype int8 runs on CPUs only; add --device cpu, or give another --dtype for GPUs")

        if self.invariant is not None:
            check_invariant_settings(self.tensor_parallel, self.dtype, self.device)

    def _check_numbers(self) -> None:
        parse_replicas(self.replicas)
        check_at_least("tensor_parallel", self.tensor_parallel, 1, 1_024)
        if self.slots is not None:
            check_at_least("slots", self.slots, 1, 65_536)
        for name in ("limit", "part_rows", "seq_length", "num_attention_heads", "fix_sparsity_layout"):
            if getattr(self, name) is not None:
                check_at_least(name, getattr(self, name), 1)
        check_at_least("threads", self.threads, 0, 1_024)
        for name in ("rank_timeout_s", "start_timeout_s", "lease_s"):
            check_seconds(name, getattr(self, name))
        check_fraction("max_error_rate", self.max_error_rate)

    @property
    def kind(self) -> Kind:
        raise TypeError("JobSpec cannot be run; use ClassifySpec, GenerateSpec, ScoreSpec or EmbedSpec")

    @property
    def needs_input(self) -> bool:
        """Whether the rows come from files."""
        return True

    @property
    def chosen_truncate(self) -> Truncate:
        """`truncate`, or the default of the kind: generate and score reject a text that is too long."""
        return self.truncate or ("right" if self.kind in ("classify", "embed") else "error")

    def slots_on(self, device: str) -> int:
        """The number of sequences a replica runs at once on `device` ("cpu" or "cuda"), if memory allows."""
        return self.slots or _DEFAULT_SLOTS[device]


def parse_replicas(text: str) -> tuple[int, int]:
    """Parse `--replicas` into (minimum, maximum): `"3"` → (3, 3), `"1:8"` → (1, 8).

    Raises RequestError.
    """
    match = re.fullmatch(r"(\d{1,5})(?::(\d{1,5}))?", str(text))
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= low <= high:
        raise RequestError(f"--replicas must be an integer from 1 up, or MIN:MAX such as 1:8, not {text!r}")
    return low, high
