"""The settings that jobs and training have in common, each with one default and one help text.

`spec.py` and `finetune/spec.py` declare the type and the order of their fields and take the rest
from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from tirazh.model.config import SPARSE_MODES
from tirazh.pipeline.settings import EMBEDDED_MODEL, setting

__all__ = ["EMBEDDED_MODEL", "SHARED_SETTINGS", "TRAINING_DTYPES", "Truncate", "shared_setting"]

Truncate = Literal["right", "left", "error"]

TRAINING_DTYPES = ("auto", "float32", "bfloat16", "float16")

SHARED_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "input": {
        "help": "Parquet files, directories or glob patterns: local paths, s3://, gs:// or az://",
        "identity": True,
        "path": True,
    },
    "output": {"help": "output directory"},
    "model": {
        "default": EMBEDDED_MODEL,
        "help": "model directory in ru-gpts, Megatron, Hugging Face GPT-2 or tirazh format (default: the embedded "
        "model)",
        "identity": True,
        "path": True,
    },
    "text_column": {"default": "text", "help": "column with the input text", "identity": True},
    "template": {
        "default": None,
        "help": "Jinja template of the prompt; its variables are input columns, e.g. 'News: {{ text }}'",
        "identity": True,
    },
    "truncate": {
        "default": None,
        "help": "how to handle a prompt that is too long: truncate its text on the right or on the left, or reject the "
        "row (error)",
        "identity": True,
        "choices": ("right", "left", "error"),
    },
    "seq_length": {
        "default": None,
        "help": "maximum sequence length in tokens, prompt and completion together (default: the model's context "
        "length)",
        "identity": True,
    },
    "limit": {"default": None, "help": "use only the first N rows of the input", "identity": True},
    "seed": {"default": 0, "help": "random seed", "identity": True},
    "dtype": {
        "default": "auto",
        "help": "data type for model weights and activations; auto selects the fastest one for the hardware and "
        "records it",
        "identity": True,
        "choices": TRAINING_DTYPES,
    },
    "sparse_mode": {
        "default": None,
        "help": "which layers use sparse attention, if the checkpoint does not specify it",
        "identity": True,
        "choices": SPARSE_MODES,
    },
    "num_attention_heads": {
        "default": None,
        "help": "number of attention heads, if the checkpoint does not specify it",
        "identity": True,
    },
    "fix_sparsity_layout": {
        "default": None,
        "help": "layout groups of the sparse pattern: the model-parallel size that the checkpoint was trained with",
        "identity": True,
    },
    "deepspeed_config": {
        "default": None,
        "help": "DeepSpeed JSON file with a sparse_attention section",
        "identity": True,
        "path": True,
    },
    "preset": {
        "default": None,
        "help": "configuration of a published model: rugpt3xl or rugpt3-13b",
        "identity": True,
    },
    "tokenizer": {
        "default": None,
        "help": "tokenizer directory (default: the model directory)",
        "identity": True,
        "path": True,
    },
    "device": {
        "default": "auto",
        "help": "device to run on; auto uses GPUs if Ray finds any",
        "choices": ("auto", "cpu", "cuda"),
    },
    "threads": {"default": 0, "help": "CPU threads per rank (0: divide the machine's cores among the ranks)"},
    "address": {"default": None, "help": "address of the Ray cluster (default: start Ray on this machine)"},
    "endpoint_url": {
        "default": None,
        "help": "endpoint URL of an S3-compatible server or of an Azure storage emulator",
    },
    "max_error_rate": {"default": 0.1, "help": "fail when more than this fraction of the rows has errors"},
    "lease_s": {
        "default": 60.0,
        "help": "heartbeat timeout of the output lease in seconds; after it another run may take the output over",
    },
    "overwrite": {
        "default": False,
        "help": "if the output directory belongs to a different job, replace that job's output",
    },
}


def shared_setting(name: str, *, more: str = "", **changed: Any) -> Any:
    """Declare the spec field of the shared setting `name`. `more` is appended to its help text."""
    declared = dict(SHARED_SETTINGS[name])
    return setting(**declared | {"help": declared["help"] + more} | changed)
