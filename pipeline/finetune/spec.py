"""The settings of `tirazh finetune`, as one frozen dataclass: flags, YAML keys and the manifest have these names.

Fields marked `identity` decide what the weights will be; the others only where and how fast they are made, and may
change when a training is resumed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

from tirazh.actors.messages import DType
from tirazh.errors import RequestError, did_you_mean
from tirazh.model.config import SPARSE_MODES, ModelSettings
from tirazh.model.training.config import LORA_TARGETS
from tirazh.pipeline.settings import Spec, at_least, flag_name, in_64_bits, seconds, setting, share
from tirazh.pipeline.spec import EMBEDDED_MODEL, Truncate

Packing = Literal["auto", "stream", "whole", "single"]
Offload = Literal["none", "optimizer", "all"]
Schedule = Literal["linear", "cosine", "constant"]
ADDRESSES = ("input", "eval_input", "label_input", "output", "model", "tokenizer", "address", "endpoint_url")


@dataclass(frozen=True, kw_only=True)
class FinetuneSpec(Spec):
    """Train a model further on texts, or on prompts with their completions."""

    input: tuple[str, ...] = setting(
        help="Parquet files, directories or globs; local, s3://, gs:// or az://", identity=True
    )
    output: str = setting(help="directory that receives the model; on a disk that every worker sees")
    model: str = setting(EMBEDDED_MODEL, "model directory to start from; default: the embedded model", identity=True)
    text_column: str = setting("text", "column of the texts to be continued", identity=True)
    prompt_column: str | None = setting(None, "column of the prompts, for --completion-column", identity=True)
    completion_column: str | None = setting(
        None, "column of what is to follow a prompt; only its tokens are taught", identity=True
    )
    template: str | None = setting(
        None, "Jinja template of the prompt; columns are its variables, e.g. 'News: {{ text }}'", identity=True
    )
    labels: Mapping[str, str] | None = setting(
        None,
        "label names, comma-separated, or a YAML file {label: words}: completions are labels, taught as classify asks",
        identity=True,
    )
    truncate: Truncate | None = setting(  # noqa: RUF009 - a field, by another name
        None,
        "a prompt that is too long: cut its text on the right, on the left, or leave the row out (error)",
        identity=True,
        choices=("right", "left", "error"),
    )
    packing: Packing = setting(  # noqa: RUF009
        "auto",
        "stream: texts joined and cut anywhere; whole: as many documents as fit; single: one; auto: stream for texts, "
        "whole for completions",
        identity=True,
        choices=("auto", "stream", "whole", "single"),
    )
    seq_length: int | None = setting(None, "tokens of a sequence (default: the model's positions)", identity=True)
    limit: int | None = setting(None, "take only the first N rows", identity=True)
    prompt_loss_weight: float = setting(0.0, "what a prompt's token counts in the loss", identity=True)
    completion_loss_weight: float = setting(
        1.0, "what the token of a completion that has a prompt counts in the loss", identity=True
    )
    batch_size: int = setting(32, "sequences of one step, all workers together", identity=True)
    epochs: float = setting(1.0, "times that every sequence is seen", identity=True)
    max_steps: int | None = setting(None, "steps in all, instead of --epochs", identity=True)
    learning_rate: float = setting(5e-5, "highest learning rate", identity=True)
    min_learning_rate: float = setting(0.0, "learning rate at the end of the schedule", identity=True)
    lr_schedule: Schedule = setting(  # noqa: RUF009
        "linear", "how the rate falls after the warm-up", identity=True, choices=("linear", "cosine", "constant")
    )
    warmup_steps: int | None = setting(None, "steps in which the rate rises (default: 1 % of all)", identity=True)
    weight_decay: float = setting(0.01, "of matrices; biases and norms have none", identity=True)
    adam_beta1: float = setting(0.9, "AdamW's memory of gradients", identity=True)
    adam_beta2: float = setting(0.999, "AdamW's memory of squared gradients", identity=True)
    adam_epsilon: float = setting(1e-8, "AdamW's smallest denominator", identity=True)
    max_grad_norm: float = setting(1.0, "gradients are shortened to this norm (0: never)", identity=True)
    seed: int = setting(0, "of the data's order (and LoRA's first weights)", identity=True)
    dtype: DType = setting(  # noqa: RUF009
        "auto",
        "of the forward and backward pass; the optimizer's weights are always float32",
        identity=True,
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    lora_rank: int = setting(0, "train low-rank changes of this rank instead of all weights (0: all)", identity=True)
    lora_alpha: float = setting(16.0, "the changes are scaled by alpha / rank", identity=True)
    lora_targets: tuple[str, ...] = setting(
        ("q_proj", "k_proj", "v_proj", "o_proj"), "linear layers that get low-rank changes", identity=True
    )
    sparse_mode: str | None = setting(
        None, "which layers are sparse, for a checkpoint that does not say", identity=True, choices=SPARSE_MODES
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
    save_dtype: str | None = setting(
        None,
        "of the files written (default: as the model's files are)",
        choices=("float32", "bfloat16", "float16"),
    )
    eval_input: tuple[str, ...] = setting((), "Parquet of held-out rows, as the input is; perplexity is taken on them")
    label_input: tuple[str, ...] = setting((), "Parquet of texts with their labels; accuracy is taken on them")
    label_column: str | None = setting(None, "column of the right label (default: the completion column, else label)")
    eval_steps: int | None = setting(None, "steps between evaluations (default: a tenth of all; 0: at the end only)")
    eval_limit: int | None = setting(None, "take only the first N rows of each evaluation file")
    workers: int = setting(1, "processes that train together, one a GPU")
    zero_stage: int = setting(0, "ZeRO: 1 shards the optimizer, 2 the gradients too, 3 the weights too")
    offload: Offload = setting(  # noqa: RUF009
        "none",
        "keep the optimizer, or with ZeRO 3 all weights too, in the host's memory",
        choices=("none", "optimizer", "all"),
    )
    micro_batch_size: int = setting(4, "sequences of one forward and backward pass of one worker")
    activation_checkpointing: bool = setting(False, "compute a layer's insides twice rather than keep them")
    device: str = setting("auto", "cpu, cuda or auto", choices=("auto", "cpu", "cuda"))
    threads: int = setting(0, "CPU threads of one worker (0: share the machine's cores)")
    address: str | None = setting(None, "Ray cluster to join (default: start one on this machine)")
    endpoint_url: str | None = setting(None, "address of an S3-compatible server or an Azure emulator")
    save_steps: int = setting(500, "steps between checkpoints; a killed training goes on from the last")
    keep_checkpoints: int = setting(2, "newest checkpoints that are kept")
    max_restarts: int = setting(3, "times that dead workers are started again")
    max_error_rate: float = setting(0.1, "refuse an input of which more than this share of the rows cannot be used")
    lease_s: float = setting(60.0, "seconds after which a run that is silent no longer keeps others off its output")
    overwrite: bool = setting(False, "remove another training's work from the output directory first")

    def __post_init__(self) -> None:
        self.check_places(addresses=ADDRESSES)
        self.check_choices()
        self._check_counts()
        self._check_measures()
        self._check_columns()
        self._check_lora()
        if self.offload == "all" and self.zero_stage != 3:
            raise RequestError(f"--offload all needs --zero-stage 3, not {self.zero_stage}")
        if self.offload == "optimizer" and self.zero_stage == 0:
            raise RequestError("--offload optimizer needs --zero-stage 1, 2 or 3")

    def _check_counts(self) -> None:
        for name in ("batch_size", "micro_batch_size", "save_steps", "keep_checkpoints"):
            at_least(name, getattr(self, name), 1, 1 << 20)
        for name in ("max_steps", "limit", "eval_limit", "num_attention_heads", "fix_sparsity_layout"):
            if getattr(self, name) is not None:
                at_least(name, getattr(self, name), 1)
        for name in ("warmup_steps", "eval_steps"):
            if getattr(self, name) is not None:
                at_least(name, getattr(self, name), 0)
        if self.seq_length is not None:
            at_least("seq_length", self.seq_length, 2)
        for name, most in (("zero_stage", 3), ("threads", 1_024), ("lora_rank", 4_096), ("max_restarts", 1_000)):
            at_least(name, getattr(self, name), 0, most)
        at_least("workers", self.workers, 1, 1_024)
        in_64_bits("seed", self.seed)

    def _check_measures(self) -> None:
        for name in ("learning_rate", "epochs", "adam_epsilon", "lora_alpha"):
            if not 0 < getattr(self, name) < math.inf:
                raise RequestError(f"{flag_name(name)} must be above 0, not {getattr(self, name)}")
        for name in ("prompt_loss_weight", "completion_loss_weight", "weight_decay", "max_grad_norm"):
            if not 0 <= getattr(self, name) < math.inf:
                raise RequestError(f"{flag_name(name)} must be 0 or more, not {getattr(self, name)}")
        seconds("lease_s", self.lease_s)
        self._check_shares()

    def _check_shares(self) -> None:
        if not 0 <= self.min_learning_rate <= self.learning_rate:
            raise RequestError(
                f"--min-learning-rate must be between 0 and --learning-rate, not {self.min_learning_rate}"
            )
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise RequestError(f"{flag_name(name)} must be at least 0 and below 1, not {getattr(self, name)}")
        share("max_error_rate", self.max_error_rate)

    def _check_lora(self) -> None:
        for name in self.lora_targets:
            if name not in LORA_TARGETS:
                hint = did_you_mean(name, LORA_TARGETS)
                raise RequestError(f"--lora-targets: there is no layer {name!r} among {', '.join(LORA_TARGETS)}{hint}")

    def _check_columns(self) -> None:
        """Which columns go together: texts alone, or prompts (a column, a template, the classify form) with
        completions."""
        if self.completion_column is None:
            for name in ("prompt_column", "template"):
                if getattr(self, name) is not None and not self.label_input:
                    raise RequestError(f"{flag_name(name)} needs --completion-column: what is to follow the prompt?")
        elif self.prompt_column is None and self.template is None and not self.labels:
            raise RequestError(
                "--completion-column needs --prompt-column, --template or --labels to say what it follows"
            )
        if self.prompt_column is not None and self.template is not None:
            raise RequestError("give --prompt-column or --template, not both")
        if self.label_input and not self.labels:
            raise RequestError("--label-input needs --labels: which labels are there?")
        if self.labels is not None and len(self.labels) < 2:
            raise RequestError(f"--labels needs at least two labels, not {len(self.labels)}")
        if self.labels and not (self.completion_column or self.label_input):
            raise RequestError("--labels needs --completion-column to teach them, or --label-input to score them")

    @property
    def kind(self) -> str:
        return "finetune"

    @property
    def model_settings(self) -> ModelSettings:
        return ModelSettings(**{flag.name: getattr(self, flag.name) for flag in fields(ModelSettings)})

    @property
    def has_pairs(self) -> bool:
        """Whether rows are prompts with completions, not plain texts."""
        return self.completion_column is not None
