"""Static types of the keyword arguments: one `TypedDict` for each kind of job.

Type checkers and editors read them (`**settings: Unpack[ClassifySettings]`). Names, choices and
required keys equal the fields of the specs, which a test checks. Defaults and help texts are only
in the specs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, Required, TypedDict

from tirazh.model.config import SparseMode

Path = str | os.PathLike[str]
Paths = Path | Sequence[Path]
Structure = Any  # a JSON value, YAML text, or the path of a file that holds one
Labels = Path | Sequence[str] | Mapping[str, str | Sequence[str] | Mapping[str, Any] | None]
DType = Literal["auto", "float32", "bfloat16", "float16", "int8"]
Invariant = Literal["tensor-parallel"]
TrainingDType = Literal["auto", "float32", "bfloat16", "float16"]
SaveDType = Literal["float32", "bfloat16", "float16"]
Device = Literal["auto", "cpu", "cuda"]
Truncate = Literal["right", "left", "error"]


class ArrowTable(Protocol):
    """A table with the Arrow C stream interface, such as `polars.DataFrame` or `pyarrow.Table`."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


class SharedSettings(TypedDict, total=False):
    """Settings of every kind of job."""

    output: Required[Path]
    model: Path
    template: str | None
    truncate: Truncate | None
    seq_length: int | None
    limit: int | None
    sparse_mode: SparseMode | None
    num_attention_heads: int | None
    fix_sparsity_layout: int | None
    deepspeed_config: Path | None
    preset: str | None
    tokenizer: Path | None
    device: Device
    threads: int
    address: str | None
    endpoint_url: str | None
    max_error_rate: float
    lease_s: float
    overwrite: bool


class RowJobSettings(SharedSettings, total=False):
    """Settings of the jobs that add columns to rows: classify, generate, score and embed."""

    dtype: DType
    prefix: str
    replicas: str | int
    tensor_parallel: int
    invariant: Invariant | None
    slots: int | None
    part_rows: int | None
    rank_timeout_s: float
    start_timeout_s: float
    append: bool
    key: str | None
    retry_failed: bool
    allow_empty: bool


class ClassifySettings(RowJobSettings, total=False):
    """Settings of `tirazh.classify`."""

    input: Required[Paths | ArrowTable]
    text_column: str
    labels: Labels | None
    questions: Structure
    examples: Path | None
    shots: int | None
    shot_tokens: int | None
    shot_selection: Literal["balanced", "stratified", "nearest"]
    permutations: int
    seed: int
    scoring: Literal["sum", "mean", "pmi"]
    calibrate: Literal["contextual", "batch"] | Path | bool | None
    priors: Structure
    none_label: str | None
    abstain_below: float
    target_error: float | None
    multi_label: float | None
    top: int | None
    shape: Literal["plain", "decision"]
    head: Literal["linear"] | None
    search: Structure | None
    gold_column: str | None


class GenerateSettings(RowJobSettings, total=False):
    """Settings of `tirazh.generate`."""

    input: Paths | ArrowTable
    prompt_column: str
    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float
    no_repeat_ngram_size: int
    stop: str | Sequence[str]
    min_p: float
    min_new_tokens: int
    frequency_penalty: float
    presence_penalty: float
    logit_bias: Structure
    bad_words: str | Sequence[str]
    samples: int
    samples_as: Literal["rows", "lists"]
    keep: str | Sequence[str]
    seed: int
    vary: Structure
    rows: int | None
    per_cell: int | None
    examples: Path | None
    shots: int
    schema: Structure
    schema_column: str | None
    regex: str | None
    choices: str | Sequence[str]
    filters: Structure
    pii: str | Sequence[str]
    dedup: Structure
    against: Paths
    accepted: int | None
    max_attempts: int
    dropped: Literal["separate", "inline"]


class ScoreSettings(RowJobSettings, total=False):
    """Settings of `tirazh.score`."""

    input: Required[Paths | ArrowTable]
    text_column: str


class EmbedSettings(RowJobSettings, total=False):
    """Settings of `tirazh.embed`."""

    input: Required[Paths | ArrowTable]
    text_column: str
    pooling: Literal["last", "mean"]


class FinetuneSettings(SharedSettings, total=False):
    """Settings of `tirazh.finetune`."""

    input: Required[Paths]
    dtype: TrainingDType
    input_weights: Sequence[float]
    text_column: str
    prompt_column: str | None
    completion_column: str | None
    messages_column: str | None
    labels: Labels | None
    packing: Literal["auto", "stream", "whole", "single"]
    prompt_loss_weight: float
    completion_loss_weight: float
    batch_size: int
    epochs: float
    max_steps: int | None
    learning_rate: float
    min_learning_rate: float
    lr_schedule: Literal["linear", "cosine", "constant"]
    warmup_steps: int | None
    weight_decay: float
    adam_beta1: float
    adam_beta2: float
    adam_epsilon: float
    max_grad_norm: float
    seed: int
    lora_rank: int
    lora_alpha: float
    lora_targets: str | Sequence[str]
    save_dtype: SaveDType | None
    save: Literal["merged", "adapter", "both"]
    license: str | None
    eval_input: Paths
    label_input: Paths
    label_column: str | None
    eval_steps: int | None
    eval_limit: int | None
    keep: Literal["last", "best"]
    best_by: Literal["perplexity", "accuracy", "macro_f1"] | None
    patience: int
    from_checkpoint: Path | None
    fresh_optimizer: bool
    keep_last_checkpoint: bool
    work_dir: Path | None
    workers: int
    zero_stage: int
    offload: Literal["none", "optimizer", "all"]
    micro_batch_size: int
    activation_checkpointing: bool
    save_steps: int
    keep_checkpoints: int
    max_restarts: int


class EvaluateOptions(TypedDict, total=False):
    """Further arguments of `tirazh.evaluate`."""

    against: Path | None
    question: str | None
    seed: int
    endpoint_url: str | None
    write: bool


class CalibrateOptions(TypedDict, total=False):
    """Further arguments of `tirazh.calibrate`."""

    method: str
    question: str | None
    endpoint_url: str | None


class RelabelOptions(TypedDict, total=False):
    """Further arguments of `tirazh.relabel`."""

    gold: Path | None
    key: str | None
    gold_label: str | None
    gold_column: str | None
    question: str | None
    endpoint_url: str | None
