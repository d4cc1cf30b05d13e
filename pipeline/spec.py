"""The job, as one frozen dataclass: what the flags, the YAML file, Python and the manifest all say by the same names.

Checked when made. Fields marked `identity` decide what the rows will be; the others only how fast and where they are
made, and may change when a job is resumed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

from tirazh.actors.messages import DType
from tirazh.errors import RequestError
from tirazh.model.config import SPARSE_MODES, ModelSettings
from tirazh.model.requests import SamplingParams
from tirazh.pipeline.schema import Kind
from tirazh.pipeline.settings import Spec, at_least, flag_name, in_64_bits, is_required, seconds, setting, share

__all__ = ["ClassifySpec", "GenerateSpec", "JobSpec", "flag_name", "is_required", "parse_replicas"]

EMBEDDED_MODEL = "embedded"
ADDRESSES = (*("input", "output", "model", "tokenizer", "deepspeed_config", "examples", "address", "endpoint_url"),)
Truncate = Literal["right", "left", "error"]
_DEFAULT_SLOTS = {"cpu": 64, "cuda": 256}


@dataclass(frozen=True, kw_only=True)
class JobSpec(Spec):
    """What both kinds of job share."""

    input: tuple[str, ...] = setting(
        help="Parquet files, directories or globs; local, s3://, gs:// or az://", identity=True
    )
    output: str = setting(help="directory that receives the parts")
    model: str = setting(
        EMBEDDED_MODEL,
        "model directory (ru-gpts, Megatron, Hugging Face, ours); default: the embedded model",
        identity=True,
    )
    prefix: str = setting("", "put before the name of every column that tirazh adds", identity=True)
    template: str | None = setting(
        None,
        "Jinja template of the prompt; columns are its variables, e.g. 'News: {{ text }}'",
        identity=True,
    )
    truncate: Truncate | None = setting(  # noqa: RUF009 - a field, by another name
        None,
        "a prompt that is too long: cut its text on the right, on the left, or make it the row's error",
        identity=True,
        choices=("right", "left", "error"),
    )
    seq_length: int | None = setting(
        None,
        "tokens a sequence may hold, prompt and completion (default: the model's positions)",
        identity=True,
    )
    limit: int | None = setting(None, "take only the first N rows", identity=True)
    dtype: DType = setting(  # noqa: RUF009
        "auto",
        "arithmetic; auto settles on what is fastest here and writes it down",
        identity=True,
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    sparse_mode: str | None = setting(
        None,
        "which layers are sparse, for a checkpoint that does not say",
        identity=True,
        choices=SPARSE_MODES,
    )
    num_attention_heads: int | None = setting(
        None, "attention heads, for a checkpoint that does not say", identity=True
    )
    fix_sparsity_layout: int | None = setting(
        None, "layout groups = model-parallel ranks the checkpoint was trained on", identity=True
    )
    deepspeed_config: str | None = setting(
        None, "the DeepSpeed JSON that holds the sparse_attention key", identity=True
    )
    preset: str | None = setting(None, "shape of a published model: rugpt3xl or rugpt3-13b", identity=True)
    tokenizer: str | None = setting(None, "tokenizer directory, where the model directory has none", identity=True)
    replicas: str = setting("1", "copies of the model: N, or MIN:MAX to grow with the work")
    tensor_parallel: int = setting(1, "ranks that share one copy of the model")
    device: str = setting("auto", "cpu, cuda or auto", choices=("auto", "cpu", "cuda"))
    slots: int | None = setting(None, "sequences a replica runs at once (default: 64; on a GPU 256, or as many as fit)")
    threads: int = setting(0, "CPU threads of one rank (0: share the machine's cores)")
    address: str | None = setting(None, "Ray cluster to join (default: start one on this machine)")
    endpoint_url: str | None = setting(None, "address of an S3-compatible server or an Azure emulator")
    part_rows: int | None = setting(None, "rows of one part (default: sized by tokens)")
    max_error_rate: float = setting(0.1, "stop when more than this share of the rows ends in errors")
    rank_timeout_s: float = setting(
        60.0, "seconds without a step after which a replica is taken for stuck and replaced"
    )
    start_timeout_s: float = setting(600.0, "seconds a replica may take to start, waiting for room included")
    lease_s: float = setting(60.0, "seconds after which a run that is silent no longer keeps others off its output")
    overwrite: bool = setting(False, "remove another job's work from the output directory first")

    def __post_init__(self) -> None:
        self.check_places(addresses=ADDRESSES)
        self._check_numbers()
        if self.prefix and not re.fullmatch(r"\w+", self.prefix):
            raise RequestError(f"--prefix may hold letters, digits and _ only, not {self.prefix!r}")
        self.check_choices()

    def _check_numbers(self) -> None:
        parse_replicas(self.replicas)
        at_least("tensor_parallel", self.tensor_parallel, 1, 1_024)
        if self.slots is not None:
            at_least("slots", self.slots, 1, 65_536)
        for name in ("limit", "part_rows", "seq_length", "num_attention_heads", "fix_sparsity_layout"):
            if getattr(self, name) is not None:
                at_least(name, getattr(self, name), 1)
        at_least("threads", self.threads, 0, 1_024)
        for name in ("rank_timeout_s", "start_timeout_s", "lease_s"):
            seconds(name, getattr(self, name))
        share("max_error_rate", self.max_error_rate)

    @property
    def kind(self) -> Kind:
        raise TypeError("JobSpec is not run by itself; use ClassifySpec or GenerateSpec")

    def slots_on(self, device: str) -> int:
        """Sequences that a replica on such a device ("cpu" or "cuda") runs at once, where they fit."""
        return self.slots or _DEFAULT_SLOTS[device]

    @property
    def model_settings(self) -> ModelSettings:
        return ModelSettings(**{flag.name: getattr(self, flag.name) for flag in fields(ModelSettings)})


@dataclass(frozen=True, kw_only=True)
class ClassifySpec(JobSpec):
    """Label every row with the most likely of a fixed set of labels."""

    text_column: str = setting("text", "column that holds the text to classify", identity=True)
    labels: Mapping[str, str] = setting(
        help="label names, comma-separated, or a YAML file: {label: words the model is to continue with}",
        identity=True,
    )
    examples: str | None = setting(
        None,
        "Parquet of examples put before every prompt; columns: the text column and `label`",
        identity=True,
    )
    gold_column: str | None = setting(None, "column with the right label, for accuracy in the report")
    calibrate: bool = setting(False, "divide by each label's probability after an empty text", identity=True)
    abstain_below: float = setting(0.0, "leave the label null where the winner's probability is lower", identity=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.labels) < 2:
            raise RequestError(f"--labels needs at least two labels, not {len(self.labels)}")
        for label, words in self.labels.items():
            if not label.strip() or not words.strip():
                raise RequestError(f"--labels holds an empty label ({label!r}: {words!r})")
        stripped = [text.strip() for text in self.labels.values()]
        twice = next((text for text, count in Counter(stripped).items() if count > 1), None)
        if twice is not None:
            raise RequestError(f"--labels says {twice!r} for more than one label")
        share("abstain_below", self.abstain_below)

    @property
    def kind(self) -> Kind:
        return "classify"


@dataclass(frozen=True, kw_only=True)
class GenerateSpec(JobSpec):
    """Continue every prompt."""

    prompt_column: str = setting("prompt", "column that holds the prompt (not used with --template)", identity=True)
    max_new_tokens: int = setting(64, "most tokens of a completion", identity=True)
    temperature: float = setting(1.0, "0 takes the likeliest token each time", identity=True)
    top_k: int = setting(0, "draw from the K likeliest tokens (0: all)", identity=True)
    top_p: float = setting(
        1.0, "draw from the smallest set of tokens whose probabilities reach P (0 or 1: all)", identity=True
    )
    repetition_penalty: float = setting(1.0, "above 1 makes tokens that were there before less likely", identity=True)
    no_repeat_ngram_size: int = setting(0, "never repeat a run of N tokens (0: off)", identity=True)
    stop: tuple[str, ...] = setting((), "strings that end a completion (not part of it)", identity=True)
    samples: int = setting(1, "completions of each prompt", identity=True)
    seed: int = setting(0, "the same seed gives the same rows", identity=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("samples", self.samples, 1, 4_096)
        if any(not text for text in self.stop):
            raise RequestError("--stop must not be an empty string")
        in_64_bits("seed", self.seed)
        self.sampling  # noqa: B018 - checks the values

    @property
    def kind(self) -> Kind:
        return "generate"

    @property
    def sampling(self) -> SamplingParams:
        """The job's sampling parameters; a row's override columns may replace single values."""
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
    """`"3"` → (3, 3), `"1:8"` → (1, 8). Raises RequestError."""
    match = re.fullmatch(r"(\d{1,5})(?::(\d{1,5}))?", str(text))
    low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= low <= high:
        raise RequestError(f"--replicas must be a number from 1, or MIN:MAX such as 1:8, not {text!r}")
    return low, high
