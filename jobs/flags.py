"""Flags of `classify` and `generate`, one for each setting of the spec, and the values that were given by them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from tirazh.jobs.settings import FINETUNE, KINDS, Setting, not_a_choice, settings_of
from tirazh.pipeline.spec import flag_name

# What people bring along from ru-gpts, Megatron, transformers and vLLM, and where it went.
FORMER_FLAGS = {
    "--load": "use --model",
    "--load-weights-only": "use --model",
    "--load-huggingface": "use --model",
    "--load-hf": "use --model",
    "--model-name-or-path": "use --model",
    "--model-path": "use --model",
    "--tokenizer-path": "use --tokenizer",
    "--tokenizer-name": "use --tokenizer",
    "--out-seq-length": "use --max-new-tokens for the completion, --seq-length for prompt and completion",
    "--length": "use --max-new-tokens",
    "--max-length": "use --max-new-tokens for the completion, --seq-length for prompt and completion",
    "--max-tokens": "use --max-new-tokens",
    "--max-model-len": "use --seq-length",
    "--model-parallel-size": "use --tensor-parallel",
    "--tensor-parallel-size": "use --tensor-parallel",
    "--tp": "use --tensor-parallel",
    "--mp": "use --tensor-parallel",
    "--batch-size": "use --slots, the sequences a replica runs at once",
    "--fp16": "use --dtype float16",
    "--bf16": "use --dtype bfloat16",
    "--half": "use --dtype float16",
    "--concurrency": "use --replicas",
    "--num-replicas": "use --replicas",
    "--num-samples": "use --samples",
    "--num-return-sequences": "use --samples",
    "--genfile": "use --output",
    "--k": "use --top-k",
    "--p": "use --top-p",
    "--stop-token": "use --stop",
    "--no-cuda": "use --device cpu",
    "--prompt": "use --input with a Parquet file and --prompt-column",
    "--export-huggingface": "use `tirazh convert CKPT OUT`",
    "--load-tag": "name the checkpoint's own directory with --model",
    "--model-type": "leave it out: it is read from the model's config.json",
    "--raw-text": "use --input with a Parquet file and --prompt-column",
    "--num-layers": "leave it out: it is read from the checkpoint",
    "--hidden-size": "leave it out: it is read from the checkpoint",
    "--max-position-embeddings": "leave it out: it is read from the checkpoint",
    "--make-vocab-size-divisible-by": "leave it out: it is read from the checkpoint",
    "--deepspeed": "leave it out: DeepSpeed is always used, and --tensor-parallel sets the ranks",
}

# The same of ru-gpts' two training scripts and of Hugging Face's.
FORMER_TRAINING_FLAGS = {
    "--train-data-file": "use --input, with Parquet",
    "--train-data": "use --input, with Parquet",
    "--train-data-path": "use --input, with Parquet",
    "--output-dir": "use --output",
    "--save": "use --output",
    "--model-name-or-path": "use --model",
    "--load": "use --model",
    "--load-huggingface": "use --model",
    "--model-type": "leave it out: it is read from the model's config.json",
    "--tokenizer-name": "use --tokenizer",
    "--tokenizer-path": "use --tokenizer",
    "--eval-data-file": "use --eval-input",
    "--valid-data": "use --eval-input",
    "--do-train": "leave it out: it is what the command does",
    "--do-eval": "use --eval-input",
    "--evaluate-during-training": "use --eval-steps",
    "--eval-interval": "use --eval-steps",
    "--line-by-line": "use --packing single",
    "--reset-attention-mask": "use --packing single",
    "--reset-position-ids": "use --packing single",
    "--block-size": "use --seq-length",
    "--max-seq-length": "use --seq-length",
    "--per-gpu-train-batch-size": "use --batch-size for a whole step, --micro-batch-size for a worker's part",
    "--per-device-train-batch-size": "use --batch-size for a whole step, --micro-batch-size for a worker's part",
    "--gradient-accumulation-steps": "use --batch-size for a whole step, --micro-batch-size for a worker's part",
    "--num-train-epochs": "use --epochs",
    "--train-iters": "use --max-steps",
    "--lr": "use --learning-rate",
    "--min-lr": "use --min-learning-rate",
    "--lr-decay-style": "use --lr-schedule",
    "--warmup": "use --warmup-steps",
    "--clip-grad": "use --max-grad-norm",
    "--save-interval": "use --save-steps",
    "--save-total-limit": "use --keep-checkpoints",
    "--should-continue": "leave it out: the same command goes on",
    "--overwrite-output-dir": "use --overwrite",
    "--checkpoint-activations": "use --activation-checkpointing",
    "--cpu-optimizer": "use --offload optimizer",
    "--model-parallel-size": "use --zero-stage 3, which shards the weights",
    "--no-cuda": "use --device cpu",
    "--fp16": "use --dtype float16",
    "--bf16": "use --dtype bfloat16",
    "--deepspeed": "leave it out: DeepSpeed is always used; see --zero-stage and --offload",
    "--attention-dropout": "leave it out: there is no dropout",
    "--hidden-dropout": "leave it out: there is no dropout",
}

_METAVARS = {"whole number": "N", "number": "X", "labels": "LABELS"}


def add_setting_flags(parser: argparse.ArgumentParser, kind: str) -> None:
    """One flag for each setting of the kind."""
    settings = settings_of(kind).values()
    must = parser.add_argument_group("what it cannot do without (here or in the job file)")
    what = "the weights" if kind == FINETUNE else "the rows"
    rows = parser.add_argument_group(f"what {what} will be (the same again goes on where it stopped)")
    ways = parser.add_argument_group("how and where they are made (free to change between runs)")
    for setting in settings:
        add_flag(must if setting.is_required else rows if setting.is_identity else ways, setting)
    needed = [flag_name(setting.name) + " " + _metavar(setting) for setting in settings if setting.is_required]
    parser.usage = f"tirazh {kind} {' '.join(needed)} [flags]"


def one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    """A flag's type that takes these texts only, and suggests the nearest."""

    def read(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(not_a_choice(text, choices))
        return text

    return read


def given_settings(options: argparse.Namespace, kind: str) -> dict[str, Any]:
    """The settings that flags were given for."""
    known = settings_of(kind)
    return {name: value for name, value in vars(options).items() if name in known}


def former_flag(flag: str, command: str | None) -> str | None:
    """Where a flag of another program went, in words; None for one that nobody knows."""
    return (FORMER_TRAINING_FLAGS if command == FINETUNE else FORMER_FLAGS).get(flag)


def owner_of(flag: str) -> str | None:
    """The kind of job that has such a flag."""
    return next((kind for kind in KINDS if flag in map(flag_name, settings_of(kind))), None)


def add_flag(group: argparse._ActionsContainer, setting: Setting) -> None:
    """The flag of one setting. Where it is not given it leaves nothing in the namespace."""
    flag, words = flag_name(setting.name), _help(setting)
    reader = one_of(setting.choices) if setting.choices else _reader(setting)
    if setting.sort == "yes or no":
        group.add_argument(flag, action=_YesNo, default=argparse.SUPPRESS, help=words)
    elif setting.sort == "list":
        group.add_argument(
            flag, action="extend", nargs="+", default=argparse.SUPPRESS, metavar=_metavar(setting), help=words
        )
    else:
        group.add_argument(flag, type=reader, default=argparse.SUPPRESS, metavar=_metavar(setting), help=words)


class _YesNo(argparse.BooleanOptionalAction):
    """`--x` and `--no-x`; the help text is left as it is."""


def _reader(setting: Setting) -> Callable[[str], Any]:
    """Turns a flag's text into the setting's type; its errors complete the sentence "--flag ..."."""

    def read(text: str) -> Any:
        try:
            return {"whole number": int, "number": float}.get(setting.sort, str)(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a {setting.sort}, not {text!r}") from None

    return read


def _metavar(setting: Setting) -> str:
    if setting.choices:
        return "|".join(setting.choices)
    if setting.name.endswith("_column"):
        return "COLUMN"
    return _METAVARS.get(setting.sort, setting.name.rsplit("_", 1)[-1].upper())


def _help(setting: Setting) -> str:
    words = setting.help.replace("%", "%%")
    plain = setting.default not in (None, (), "", False) and setting.sort != "yes or no"
    return f"{words} (default: {setting.default})" if plain and "default" not in words else words
