"""The specs of jobs over rows: frozen dataclasses that flags, job files and Python calls are turned into.

A spec is validated when it is made. Settings marked `identity` define the output rows. The others
control where and how fast the job runs, and may change when it is resumed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tirazh.actors.messages import DType
from tirazh.errors import RequestError
from tirazh.model.requests import SamplingParams
from tirazh.pipeline.label_checks import check_labels
from tirazh.pipeline.schema import Kind
from tirazh.pipeline.settings import (
    Spec,
    check_at_least,
    check_fraction,
    check_int64,
    check_seconds,
    flag_name,
    is_required,
    setting,
)
from tirazh.pipeline.shared_settings import EMBEDDED_MODEL, Truncate, shared_setting

__all__ = [
    "EMBEDDED_MODEL",
    "SPECS",
    "ClassifySpec",
    "GenerateSpec",
    "JobSpec",
    "Truncate",
    "flag_name",
    "is_required",
    "parse_replicas",
]

ADDRESSES = ("input", "output", "model", "tokenizer", "deepspeed_config", "examples", "address", "endpoint_url")
# Sequences that a replica runs at once by default.
_DEFAULT_SLOTS = {"cpu": 64, "cuda": 256}


@dataclass(frozen=True, kw_only=True)
class JobSpec(Spec):
    """The settings of both kinds of job."""

    input: tuple[str, ...] = shared_setting("input")
    output: str = shared_setting("output", more=" for the Parquet files, the manifest and the report")
    model: str = shared_setting("model")
    prefix: str = setting("", "prefix for the names of the output columns that tirazh adds", identity=True)
    template: str | None = shared_setting("template")
    truncate: Truncate | None = shared_setting("truncate")  # noqa: RUF009 - a field() call
    seq_length: int | None = shared_setting("seq_length")
    limit: int | None = shared_setting("limit")
    dtype: DType = shared_setting("dtype")  # noqa: RUF009
    sparse_mode: str | None = shared_setting("sparse_mode")
    num_attention_heads: int | None = shared_setting("num_attention_heads")
    fix_sparsity_layout: int | None = shared_setting("fix_sparsity_layout")
    deepspeed_config: str | None = shared_setting("deepspeed_config")
    preset: str | None = shared_setting("preset")
    tokenizer: str | None = shared_setting("tokenizer")
    replicas: str = setting("1", "number of model replicas: N, or MIN:MAX for autoscaling")
    tensor_parallel: int = setting(1, "tensor-parallel size: ranks (GPUs, or CPU processes) per replica")
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

    def __post_init__(self) -> None:
        self.check_paths(addresses=ADDRESSES)
        self._check_numbers()
        if self.prefix and not re.fullmatch(r"\w+", self.prefix):
            raise RequestError(f"--prefix may contain only letters, digits and _, not {self.prefix!r}")
        self.check_choices()

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
        raise TypeError("JobSpec cannot be run; use ClassifySpec or GenerateSpec")

    @property
    def chosen_truncate(self) -> Truncate:
        """`truncate`, or the default of the kind: generate rejects a prompt that is too long."""
        return self.truncate or ("error" if self.kind == "generate" else "right")

    def slots_on(self, device: str) -> int:
        """The number of sequences a replica runs at once on `device` ("cpu" or "cuda"), if memory allows."""
        return self.slots or _DEFAULT_SLOTS[device]


@dataclass(frozen=True, kw_only=True)
class ClassifySpec(JobSpec):
    """Give every row the most likely of a fixed set of labels."""

    text_column: str = shared_setting("text_column", more=" to classify")
    labels: Mapping[str, str] = setting(
        help="label names, comma-separated, or a YAML file {label: words}; the model scores the words "
        "(verbalizer) as the continuation of the prompt",
        identity=True,
    )
    examples: str | None = setting(
        None,
        "Parquet file with few-shot examples for the prompt; columns: the text column and `label`",
        identity=True,
        path=True,
    )
    gold_column: str | None = setting(
        None,
        "column with the gold (true) label; the report then contains accuracy and macro-F1",
        group="evaluation",
    )
    calibrate: bool = setting(
        False,
        "contextual calibration (Zhao et al. 2021): divide each label's probability by its probability for an empty "
        "text",
        identity=True,
    )
    abstain_below: float = setting(
        0.0, "confidence threshold: the label is null if the top label's probability is below it", identity=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_labels(self.labels)
        check_fraction("abstain_below", self.abstain_below)

    @property
    def kind(self) -> Literal["classify"]:
        return "classify"


@dataclass(frozen=True, kw_only=True)
class GenerateSpec(JobSpec):
    """Complete the prompt of every row."""

    prompt_column: str = setting("prompt", "column with the prompt (not used together with --template)", identity=True)
    max_new_tokens: int = setting(64, "maximum number of tokens to generate per completion", identity=True)
    temperature: float = setting(1.0, "sampling temperature; 0 means greedy decoding", identity=True)
    top_k: int = setting(0, "top-k sampling: sample from the K most likely tokens (0: disabled)", identity=True)
    top_p: float = setting(
        1.0,
        "nucleus sampling: sample from the smallest set of most likely tokens whose cumulative probability reaches P "
        "(0 or 1: disabled)",
        identity=True,
    )
    repetition_penalty: float = setting(
        1.0,
        "penalty for tokens that occur in the prompt or in the text generated so far (CTRL; 1: disabled, above 1: "
        "fewer repetitions)",
        identity=True,
    )
    no_repeat_ngram_size: int = setting(0, "never generate the same N-gram twice (0: disabled)", identity=True)
    stop: tuple[str, ...] = setting(
        (), "stop strings: generation ends at the first one, which is not part of the completion", identity=True
    )
    samples: int = setting(1, "number of completions to sample per prompt", identity=True)
    seed: int = shared_setting("seed", more="; the same seed gives the same completions")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("samples", self.samples, 1, 4_096)
        if any(not text for text in self.stop):
            raise RequestError("--stop must not be an empty string")
        check_int64("seed", self.seed)
        # SamplingParams names its fields, which are also column names; here the user set flags.
        try:
            self.sampling  # noqa: B018 - the constructor validates the values
        except RequestError as error:
            name, _, rule = str(error).partition(" ")
            raise RequestError(f"{flag_name(name)} {rule}") from None

    @property
    def kind(self) -> Literal["generate"]:
        return "generate"

    @property
    def sampling(self) -> SamplingParams:
        """The job's sampling parameters. A row may override single values (`schema.OVERRIDES`)."""
        return SamplingParams(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            repetition_penalty=self.repetition_penalty,
            no_repeat_ngram_size=self.no_repeat_ngram_size,
            stop=self.stop,
        )


SPECS: dict[str, type[JobSpec]] = {"classify": ClassifySpec, "generate": GenerateSpec}


def parse_replicas(text: str) -> tuple[int, int]:
    """Parse `--replicas` into (minimum, maximum): `"3"` → (3, 3), `"1:8"` → (1, 8).

    Raises RequestError.
    """
    match = re.fullmatch(r"(\d{1,5})(?::(\d{1,5}))?", str(text))
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= low <= high:
        raise RequestError(f"--replicas must be an integer from 1 up, or MIN:MAX such as 1:8, not {text!r}")
    return low, high
