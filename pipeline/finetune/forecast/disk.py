"""The room that a training needs on the disk of its output, and the refusal of one that has not enough."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from tirazh.errors import OutputError
from tirazh.model.byte_text import bytes_text
from tirazh.model.config import ModelConfig, expected_shapes
from tirazh.model.training.disk_room import CHECKPOINT_BYTES_PER_WEIGHT, free_bytes
from tirazh.pipeline.finetune.forecast.sample import sample_corpus
from tirazh.pipeline.finetune.plan import FinetunePlan
from tirazh.pipeline.finetune.spec import FinetuneSpec
from tirazh.pipeline.storage.filesystem import is_remote

# A token of the data takes an int32 and a role of one byte; a sequence has a span of two int64 and an offset.
_TOKEN_BYTES, _SEQUENCE_BYTES = 5, 24
_ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def count_weights(config: ModelConfig) -> int:
    """The number of weights; the embedding that is tied to the output is counted once."""
    return sum(prod(shape) for shape in expected_shapes(config).values())


def count_trained(config: ModelConfig, spec: FinetuneSpec) -> int:
    """The number of weights that are trained: all, or with LoRA those of its adapters."""
    if not spec.lora_rank:
        return count_weights(config)
    endings = tuple(f".{name}.weight" for name in spec.lora_targets)
    shapes = [shape for name, shape in expected_shapes(config).items() if name.endswith(endings)]
    return sum(spec.lora_rank * sum(shape) for shape in shapes)


def count_checkpoints(spec: FinetuneSpec) -> int:
    """The most checkpoints that lie on the disk at once.

    These are the newest `keep_checkpoints`, the one that is being written and, with `--keep best`, the best one.
    """
    return spec.keep_checkpoints + 1 + (spec.keep == "best")


def disk_bytes(plan: FinetunePlan, *, tokens: int, sequences: int) -> int:
    """The most bytes that the directory of the training holds while it runs.

    These are the checkpoints, the model, and the data.
    """
    spec = plan.spec
    checkpoint = CHECKPOINT_BYTES_PER_WEIGHT * count_trained(plan.config, spec)
    item = _ITEM_BYTES.get(spec.save_dtype or "")
    model = plan.model.weight_bytes if item is None else item * count_weights(plan.config)
    data = _TOKEN_BYTES * tokens + _SEQUENCE_BYTES * sequences
    is_fetched = plan.start is not None and is_remote(plan.start.folder)
    return checkpoint * (count_checkpoints(spec) + is_fetched) + model + data


def held_bytes(plan: FinetunePlan) -> int:
    """The bytes that this training has written to its directory already; those of others in it are not its room."""
    output = plan.open_output()
    saved = output.find_request(plan.identity(), overwrite=True)
    total = 0
    for path in output.work(saved["training"]).folder.rglob("*") if saved is not None else ():
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:  # a run removes it at this moment
            continue
    return total


def check_room(plan: FinetunePlan, saved: Mapping[str, Any] | None) -> None:
    """Raise OutputError if the disk of the training has not the room that it needs.

    The request of one that has started, `saved`, has the counts of its data; else they are estimated.
    """
    if saved is None:
        sample = sample_corpus(plan)
        needed = disk_bytes(plan, tokens=sample.tokens, sequences=sample.sequences)
    else:
        needed = disk_bytes(plan, tokens=saved["tokens"], sequences=saved["sequences"])
    problem = room_problem(plan, needed)
    if problem is not None:
        raise OutputError(problem)


def room_problem(plan: FinetunePlan, needed: int) -> str | None:
    """Return the sentence about a disk with less room than the `needed` bytes; None for one that has it."""
    free, held = free_bytes(plan.folder), held_bytes(plan)
    if needed - held <= free:
        return None
    keep, count = plan.spec.keep_checkpoints, count_checkpoints(plan.spec)
    checkpoint = CHECKPOINT_BYTES_PER_WEIGHT * count_trained(plan.config, plan.spec)
    fewer = f", lower --keep-checkpoints ({keep} now)" if keep > 1 else ""
    lora = "" if plan.spec.lora_rank else ", train adapters alone with --lora-rank"
    flag = "--work-dir" if is_remote(plan.output) else "--output"
    place = f"{flag} {plan.folder}"
    more = f", of which {bytes_text(held)} are written" if held else ""
    return (
        f"{place}: the training needs {bytes_text(needed)} on this disk{more} ({count} checkpoints "
        f"of {bytes_text(checkpoint)}, the model and the data), and {bytes_text(free)} is free; make room{fewer}{lora} "
        f"or give another {flag}"
    )
