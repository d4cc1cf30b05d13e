"""The spec of `tirazh finetune`: a frozen dataclass that flags, job files and Python calls are turned into.

A spec is validated when it is made. Settings marked `identity` define the trained weights. The
others control evaluation and execution, and may change when a training run is resumed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tirazh.actors.messages import DType
from tirazh.errors import RequestError, did_you_mean
from tirazh.model.training.config import LORA_TARGETS
from tirazh.model.training.selection import Metric, Selection
from tirazh.pipeline.classification.label_checks import check_labels
from tirazh.pipeline.settings import (
    Spec,
    check_at_least,
    check_fraction,
    check_int64,
    check_seconds,
    flag_name,
    setting,
)
from tirazh.pipeline.shared_settings import Truncate, shared_setting
from tirazh.pipeline.storage.addresses import SCHEMES

Packing = Literal["auto", "stream", "whole", "single"]
Offload = Literal["none", "optimizer", "all"]
Schedule = Literal["linear", "cosine", "constant"]
Save = Literal["merged", "adapter", "both"]
Keep = Literal["last", "best"]
ADDRESSES = (
    "input",
    "eval_input",
    "label_input",
    "output",
    "model",
    "tokenizer",
    "address",
    "endpoint_url",
    "from_checkpoint",
    "work_dir",
)


@dataclass(frozen=True, kw_only=True)
class FinetuneSpec(Spec):
    """Train a model further on texts, or on prompts with their completions."""

    input: tuple[str, ...] = shared_setting("input")
    input_weights: tuple[float, ...] = setting(
        (),
        "share of each --input in every epoch, one number for each of them in the same order (default: all rows of all "
        "inputs, once)",
        identity="if given",
    )
    output: str = shared_setting(
        "output", more=" for the model; on a disk that every worker can reach, or in an object store"
    )
    model: str = shared_setting("model", more="; the training run starts from its weights")
    text_column: str = shared_setting("text_column")
    prompt_column: str | None = setting(
        None, "column with the prompt (used together with --completion-column)", identity=True
    )
    completion_column: str | None = setting(
        None, "column with the completion; only its tokens contribute to the loss by default", identity=True
    )
    messages_column: str | None = setting(
        None,
        "column with conversations, lists of messages {role, content}; only what the assistant says contributes to the "
        "loss by default",
        identity="if given",
    )
    template: str | None = shared_setting("template")
    labels: Mapping[str, Any] | None = setting(
        None,
        "label names, comma-separated, or a YAML file {label: words}; the completion column then holds labels, and "
        "prompts have the form that classify uses",
        identity=True,
    )
    truncate: Truncate | None = shared_setting("truncate")  # noqa: RUF009 - a field() call
    packing: Packing = setting(  # noqa: RUF009
        "auto",
        "sequence packing: stream concatenates texts and cuts them at the sequence length; whole packs as many "
        "documents as fit, which do not see each other; single puts one document in a sequence; auto is stream for "
        "texts, single with --labels, else whole for completions and conversations",
        identity=True,
        choices=("auto", "stream", "whole", "single"),
    )
    seq_length: int | None = shared_setting("seq_length")
    limit: int | None = shared_setting("limit")
    prompt_loss_weight: float = setting(0.0, "loss weight of prompt tokens", identity=True)
    completion_loss_weight: float = setting(1.0, "loss weight of completion tokens that follow a prompt", identity=True)
    batch_size: int = setting(32, "global batch size: sequences per optimizer step over all workers", identity=True)
    epochs: float = setting(1.0, "number of passes over the training data", identity=True)
    max_steps: int | None = setting(None, "number of optimizer steps; overrides --epochs", identity=True)
    learning_rate: float = setting(5e-5, "peak learning rate", identity=True)
    min_learning_rate: float = setting(
        0.0, "learning rate of the last step (linear and cosine); 0 is reached after it", identity=True
    )
    lr_schedule: Schedule = setting(  # noqa: RUF009
        "linear", "learning rate schedule after warm-up", identity=True, choices=("linear", "cosine", "constant")
    )
    warmup_steps: int | None = setting(
        None,
        "number of linear warm-up steps (default: 1 % of all steps, at least 10, but at most a tenth of all steps)",
        identity=True,
    )
    weight_decay: float = setting(
        0.01, "AdamW weight decay of weight matrices; biases and layer norms have none", identity=True
    )
    adam_beta1: float = setting(0.9, "AdamW beta1", identity=True)
    adam_beta2: float = setting(0.999, "AdamW beta2", identity=True)
    adam_epsilon: float = setting(1e-8, "AdamW epsilon", identity=True)
    max_grad_norm: float = setting(1.0, "gradient clipping: maximum gradient norm (0: disabled)", identity=True)
    seed: int = shared_setting("seed", more=" for data order and LoRA initialisation")
    dtype: DType = shared_setting(  # noqa: RUF009
        "dtype", more="; master weights and optimizer states stay in float32"
    )
    lora_rank: int = setting(0, "LoRA rank (0: train all weights)", identity=True)
    lora_alpha: float = setting(16.0, "LoRA alpha; the update is scaled by alpha / rank", identity=True)
    lora_targets: tuple[str, ...] = setting(
        ("q_proj", "k_proj", "v_proj", "o_proj"),
        "linear layers that get LoRA adapters (default: q_proj k_proj v_proj o_proj)",
        identity=True,
    )
    sparse_mode: str | None = shared_setting("sparse_mode")
    num_attention_heads: int | None = shared_setting("num_attention_heads")
    fix_sparsity_layout: int | None = shared_setting("fix_sparsity_layout")
    deepspeed_config: str | None = shared_setting("deepspeed_config")
    preset: str | None = shared_setting("preset")
    tokenizer: str | None = shared_setting("tokenizer")
    save_dtype: str | None = setting(
        None,
        "data type of the saved weights (default: that of the model's own files)",
        choices=("float32", "bfloat16", "float16"),
    )
    save: Save = setting(  # noqa: RUF009
        "merged",
        "what is saved of LoRA: merged writes a model with the adapter merged into its weights, adapter only the "
        "adapter, in peft's format, both writes both",
        choices=("merged", "adapter", "both"),
    )
    license: str | None = setting(
        None, "licence of the trained model, for its card (for example apache-2.0; default: not stated)"
    )
    eval_input: tuple[str, ...] = setting(
        (), "Parquet files with held-out rows, in the format of --input; reports perplexity", group="evaluation"
    )
    label_input: tuple[str, ...] = setting(
        (), "Parquet files with labelled texts; reports classification accuracy", group="evaluation"
    )
    label_column: str | None = setting(
        None,
        "column with the gold label in --label-input (default: the completion column, or `label`)",
        group="evaluation",
    )
    eval_steps: int | None = setting(
        None,
        "evaluate every N optimizer steps (default: a tenth of all steps; 0: only before the first and after the last)",
        group="evaluation",
    )
    eval_limit: int | None = setting(None, "use only the first N rows for each evaluation", group="evaluation")
    keep: Keep = setting(  # noqa: RUF009
        "last",
        "which checkpoint becomes the model: that of the last step, or that of the best evaluation",
        identity="if given",
        choices=("last", "best"),
    )
    best_by: Metric | None = setting(  # noqa: RUF009
        None,
        "figure of an evaluation that --keep best and --patience compare (default: accuracy with --label-input, else "
        "perplexity)",
        identity="if given",
        choices=("perplexity", "accuracy", "macro_f1"),
    )
    patience: int = setting(
        0, "end the training after N evaluations without a better one (0: never)", identity="if given"
    )
    from_checkpoint: str | None = setting(
        None,
        "start from a checkpoint of another training: OUTPUT, or OUTPUT@STEP; learning rate, schedule and number of "
        "steps may differ from its own",
        identity="if given",
    )
    fresh_optimizer: bool = setting(
        False,
        "with --from: start with a new optimizer; only the weights are those of the checkpoint",
        identity="if given",
    )
    keep_last_checkpoint: bool = setting(
        False,
        "keep the last checkpoint when the model is written, so that --from can go on from it (12 bytes for each "
        "trained weight)",
        group="execution",
    )
    work_dir: str | None = setting(
        None,
        "with --output in an object store: directory for data and checkpoints during the training, on a disk that "
        "every worker can reach (default: ~/.cache/tirazh/trainings)",
        group="execution",
    )
    workers: int = setting(1, "number of data-parallel workers, one per GPU")
    zero_stage: int = setting(
        0, "DeepSpeed ZeRO stage: 1 shards optimizer states, 2 also gradients, 3 also parameters (0: disabled)"
    )
    offload: Offload = setting(  # noqa: RUF009
        "none",
        "CPU offload: optimizer moves optimizer states to host memory; all (ZeRO stage 3) also moves parameters",
        choices=("none", "optimizer", "all"),
    )
    micro_batch_size: int = setting(
        4, "sequences per forward and backward pass of one worker; gradients are accumulated up to --batch-size"
    )
    activation_checkpointing: bool = setting(
        False, "activation checkpointing: recompute activations in the backward pass to save memory"
    )
    device: str = shared_setting("device")
    threads: int = shared_setting("threads")
    address: str | None = shared_setting("address")
    endpoint_url: str | None = shared_setting("endpoint_url")
    save_steps: int = setting(500, "save a checkpoint every N steps; an interrupted run resumes from the latest one")
    keep_checkpoints: int = setting(2, "number of latest checkpoints to keep")
    max_restarts: int = setting(3, "maximum number of restarts after worker failures")
    max_error_rate: float = shared_setting("max_error_rate")
    lease_s: float = shared_setting("lease_s")
    overwrite: bool = shared_setting("overwrite")

    def __post_init__(self) -> None:
        self.check_paths(addresses=ADDRESSES)
        self.check_choices()
        self._check_counts()
        self._check_numbers()
        self._check_messages()
        self._check_columns()
        self._check_lora()
        self._check_selection()
        self._check_weights()
        if self.work_dir is not None and self.output.partition("://")[0].lower() not in SCHEMES:
            raise RequestError("--work-dir is for an --output in an object store; on a disk a training works there")
        if self.fresh_optimizer and self.from_checkpoint is None:
            raise RequestError("--fresh-optimizer needs --from; without it every training starts with a new optimizer")
        if self.offload == "all" and self.zero_stage != 3:
            raise RequestError(f"--offload all needs --zero-stage 3, not {self.zero_stage}")
        if self.offload == "optimizer" and self.zero_stage == 0:
            raise RequestError("--offload optimizer needs --zero-stage 1, 2 or 3")

    def _check_counts(self) -> None:
        for name in ("batch_size", "micro_batch_size", "save_steps", "keep_checkpoints"):
            check_at_least(name, getattr(self, name), 1, 1 << 20)
        for name in ("max_steps", "limit", "eval_limit", "num_attention_heads", "fix_sparsity_layout"):
            if getattr(self, name) is not None:
                check_at_least(name, getattr(self, name), 1)
        for name in ("warmup_steps", "eval_steps"):
            if getattr(self, name) is not None:
                check_at_least(name, getattr(self, name), 0)
        if self.seq_length is not None:
            check_at_least("seq_length", self.seq_length, 2)
        for name, most in (("zero_stage", 3), ("threads", 1_024), ("lora_rank", 4_096), ("max_restarts", 1_000)):
            check_at_least(name, getattr(self, name), 0, most)
        check_at_least("workers", self.workers, 1, 1_024)
        check_at_least("patience", self.patience, 0, 1 << 20)
        check_int64("seed", self.seed)

    def _check_numbers(self) -> None:
        for name in ("learning_rate", "epochs", "adam_epsilon", "lora_alpha"):
            if not 0 < getattr(self, name) < math.inf:
                raise RequestError(f"{flag_name(name)} must be above 0, not {getattr(self, name)}")
        for name in ("prompt_loss_weight", "completion_loss_weight", "weight_decay", "max_grad_norm"):
            if not 0 <= getattr(self, name) < math.inf:
                raise RequestError(f"{flag_name(name)} must be 0 or more, not {getattr(self, name)}")
        check_seconds("lease_s", self.lease_s)
        self._check_ranges()

    def _check_ranges(self) -> None:
        if not 0 <= self.min_learning_rate <= self.learning_rate:
            raise RequestError(
                f"--min-learning-rate must be between 0 and --learning-rate, not {self.min_learning_rate}"
            )
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise RequestError(f"{flag_name(name)} must be at least 0 and below 1, not {getattr(self, name)}")
        check_fraction("max_error_rate", self.max_error_rate)

    def _check_lora(self) -> None:
        if self.save != "merged" and not self.lora_rank:
            raise RequestError(f"--save {self.save} needs --lora-rank; without LoRA there is no adapter to save")
        for name in self.lora_targets:
            if name not in LORA_TARGETS:
                hint = did_you_mean(name, LORA_TARGETS)
                raise RequestError(
                    f"--lora-targets: unknown layer {name!r}; choose from {', '.join(LORA_TARGETS)}{hint}"
                )

    def _check_weights(self) -> None:
        if not self.input_weights:
            return
        if len(self.input_weights) != len(self.input):
            raise RequestError(
                f"--input-weights needs one number for each --input, {len(self.input)} in all, not "
                f"{len(self.input_weights)}"
            )
        for weight in self.input_weights:
            if not 0 < weight < math.inf:
                raise RequestError(f"--input-weights must be above 0, not {weight:g}")
        if self.limit is not None:
            raise RequestError("--limit takes the first rows of all inputs together; leave it out with --input-weights")

    def _check_selection(self) -> None:
        """Check that the evaluations have the figure that the choice of the best one needs."""
        given = "--keep best" if self.keep == "best" else "--patience" if self.patience else ""
        if not given and self.best_by is not None:
            raise RequestError("--best-by needs --keep best or --patience, which compare that figure")
        if given and not (self.eval_input or self.label_input):
            raise RequestError(f"{given} needs evaluations: give --eval-input or --label-input with held-out rows")
        needed = "eval_input" if self.selection().by == "perplexity" else "label_input"
        if given and not getattr(self, needed):
            raise RequestError(f"--best-by {self.selection().by} needs {flag_name(needed)}")

    def selection(self, *, first_step: int = 0) -> Selection:
        """Return how the best evaluation is chosen, in a training that begins after `first_step` steps."""
        by: Metric = self.best_by or ("accuracy" if self.label_input else "perplexity")
        return Selection(keep=self.keep, by=by, patience=self.patience, first_step=first_step)

    def _check_messages(self) -> None:
        for name in ("prompt_column", "completion_column", "template", "labels"):
            if self.messages_column is not None and getattr(self, name) is not None:
                raise RequestError(f"give --messages-column or {flag_name(name)}, not both")

    def _check_columns(self) -> None:
        """Check that the columns fit together: either texts alone, or prompts with completions.

        A prompt comes from a column, from a template, or has the form of classify.
        """
        if self.completion_column is None:
            for name in ("prompt_column", "template"):
                if getattr(self, name) is not None and not self.label_input:
                    raise RequestError(
                        f"{flag_name(name)} needs --completion-column with the completions of the prompts"
                    )
        elif self.prompt_column is None and self.template is None and not self.labels:
            raise RequestError("--completion-column needs the prompts: give --prompt-column, --template or --labels")
        if self.prompt_column is not None and self.template is not None:
            raise RequestError("give --prompt-column or --template, not both")
        if self.label_input and not self.labels:
            raise RequestError("--label-input needs --labels, the labels to choose from")
        if self.labels is not None:
            check_labels(self.labels)
        if self.labels and not (self.completion_column or self.label_input):
            raise RequestError(
                "--labels needs --completion-column to train on labels, or --label-input to evaluate them"
            )

    @property
    def kind(self) -> Literal["finetune"]:
        return "finetune"

    @property
    def has_pairs(self) -> bool:
        """Whether rows are pairs of a prompt and a completion, not plain texts."""
        return self.completion_column is not None
