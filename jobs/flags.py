"""Command-line flags of the settings, and hints for flags of other programs.

Every setting of a spec has one flag. A flag of ru-gpts, Megatron, transformers or vLLM is refused
with the name of the flag to use instead.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from tirazh.jobs.given_once import BooleanOnce, DisableOnce
from tirazh.jobs.settings import FINETUNE, KINDS, Setting, not_a_choice, settings_of
from tirazh.pipeline.settings import SettingGroup
from tirazh.pipeline.spec import flag_name
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.secrets import holds_secret

# Flags of ru-gpts, Megatron, transformers and vLLM for inference, and what to use instead.
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

# Flags of the training scripts of ru-gpts and Hugging Face, and what to use instead.
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
    "--reset-attention-mask": "use --packing whole or single",
    "--reset-position-ids": "use --packing whole or single",
    "--block-size": "use --seq-length",
    "--max-seq-length": "use --seq-length",
    "--per-gpu-train-batch-size": "use --batch-size for all workers together, --micro-batch-size for one pass",
    "--per-device-train-batch-size": "use --batch-size for all workers together, --micro-batch-size for one pass",
    "--gradient-accumulation-steps": "use --batch-size for all workers together, --micro-batch-size for one pass",
    "--num-train-epochs": "use --epochs",
    "--train-iters": "use --max-steps",
    "--lr": "use --learning-rate",
    "--min-lr": "use --min-learning-rate",
    "--lr-decay-style": "use --lr-schedule",
    "--warmup": "use --warmup-steps",
    "--clip-grad": "use --max-grad-norm",
    "--save-interval": "use --save-steps",
    "--save-total-limit": "use --keep-checkpoints",
    "--should-continue": "leave it out: rerunning the same command resumes",
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

_METAVARS = {"integer": "N", "number": "X", "numbers": "X", "labels": "LABELS", "structure": "YAML"}
_GROUPS: dict[SettingGroup, str] = {
    "result": "options that define the output (rerunning with the same values resumes)",
    "prompts": "options that make prompts",
    "constraints": "options of constrained decoding",
    "quality": "options of data quality",
    "evaluation": "evaluation options (safe to change on resume)",
    "execution": "execution options (safe to change on resume)",
}


def add_setting_flags(parser: argparse.ArgumentParser, kind: str) -> None:
    """Add one flag for each setting of the kind, in the groups that the settings belong to."""
    settings = settings_of(kind).values()
    required = parser.add_argument_group("required (or set in the job file)")
    used = {setting.group for setting in settings}
    groups = {name: parser.add_argument_group(title) for name, title in _GROUPS.items() if name in used}
    for setting in settings:
        add_flag(required if setting.is_required else groups[setting.group], setting)
    named = [flag_name(setting.name) + " " + _metavar(setting) for setting in settings if setting.is_required]
    parser.usage = f"tirazh {kind} {' '.join(named)} [flags]"


def one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    """Return an argparse type that accepts these values only; its error suggests the nearest one."""

    def read(text: str) -> str:
        if text not in choices:
            raise argparse.ArgumentTypeError(not_a_choice(text, choices))
        return text

    return read


def given_settings(options: argparse.Namespace, kind: str) -> dict[str, Any]:
    """Return the settings that were given as flags."""
    known = settings_of(kind)
    return {name: value for name, value in vars(options).items() if name in known}


def former_flag(flag: str, command: str | None) -> str | None:
    """Return what to use instead of another program's flag, or None if it is not in the tables."""
    return (FORMER_TRAINING_FLAGS if command == FINETUNE else FORMER_FLAGS).get(flag)


def owner_of(flag: str) -> str | None:
    """Return the kind of job that has this flag, or None."""
    return next((kind for kind in KINDS if flag in map(flag_name, settings_of(kind))), None)


def add_flag(group: argparse._ActionsContainer, setting: Setting) -> None:
    """Add the flag of one setting. A flag that is not given leaves nothing in the namespace."""
    flag, text = flag_name(setting.name), _help(setting)
    # `type` and not `choices`: argparse's own message for `choices` suggests no nearest value.
    reader = one_of(setting.choices) if setting.choices else _reader(setting)
    if setting.type == "boolean":
        group.add_argument(flag, action=BooleanOnce, default=argparse.SUPPRESS, help=text)
    elif setting.type in ("list", "numbers"):
        more: dict[str, Any] = {"type": reader} if setting.type == "numbers" else {}
        group.add_argument(
            flag, action="extend", nargs="+", default=argparse.SUPPRESS, metavar=_metavar(setting), help=text, **more
        )
    elif setting.bare is not None:
        group.add_argument(
            flag,
            type=reader,
            nargs="?",
            const=setting.bare,
            default=argparse.SUPPRESS,
            metavar=_metavar(setting),
            help=text,
        )
        off = flag.replace("--", "--no-", 1)
        group.add_argument(
            off, dest=setting.name, action=DisableOnce, default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
    else:
        names: dict[str, Any] = {"dest": setting.name, "metavar": _metavar(setting)}
        group.add_argument(flag, type=reader, default=argparse.SUPPRESS, help=text, **names)


def _reader(setting: Setting) -> Callable[[str], Any]:
    """Return a function that converts a flag's text; its errors complete the sentence "--flag ..."."""

    def read(text: str) -> Any:
        try:
            return {"integer": int, "number": float, "numbers": float}.get(setting.type, str)(text)
        except ValueError:
            what = {"integer": "an integer", "numbers": "a number"}.get(setting.type, f"a {setting.type}")
            raise argparse.ArgumentTypeError(f"must be {what}, not {text!r}") from None

    return read


def _metavar(setting: Setting) -> str:
    if setting.choices:
        return "|".join(setting.choices)
    if setting.name.endswith("_column"):
        return "COLUMN"
    return _METAVARS.get(setting.type, setting.name.rsplit("_", 1)[-1].upper())


def _help(setting: Setting) -> str:
    text = setting.help.replace("%", "%%")
    if setting.default in (None, (), "", False) or setting.type == "boolean" or "default" in text:
        return text
    default = " ".join(setting.default) if isinstance(setting.default, tuple) else setting.default
    return f"{text} (default: {default})"


def plain_address(text: str) -> str:
    """An argparse type that refuses an address with a secret, as the specs do."""
    if holds_secret(text):
        raise argparse.ArgumentTypeError(
            f"must hold no password, key or signature, but {show_uri(text)} had one; set the credentials in the "
            "environment"
        )
    return text
