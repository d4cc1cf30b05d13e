"""What a training would do, in figures: for `tirazh plan` and `tirazh finetune --dry-run`.

Starts and writes nothing.
"""

from __future__ import annotations

import math
from statistics import median
from typing import Any

from tirazh.actors.cores import usable_cores
from tirazh.actors.training_probe import count_gpus, free_host_bytes
from tirazh.model.byte_text import bytes_text
from tirazh.model.training.batch_order import Source, epoch_counts
from tirazh.model.training.disk_room import free_bytes
from tirazh.pipeline.finetune.forecast.disk import count_trained, count_weights, disk_bytes, room_problem
from tirazh.pipeline.finetune.forecast.memory import WorkerMemory, worker_memory
from tirazh.pipeline.finetune.forecast.sample import CorpusSample, sample_corpus
from tirazh.pipeline.finetune.plan import FinetunePlan, plan_finetune
from tirazh.pipeline.finetune.spec import FinetuneSpec
from tirazh.pipeline.finetune.start import TrainingStart, check_steps, names_output
from tirazh.pipeline.forecast.estimate import DRIVER_BYTES, RAY_BYTES
from tirazh.pipeline.storage.errors import show_uri


def describe_training(spec: FinetuneSpec) -> dict[str, Any]:
    """Plan the training, measure a sample of its rows, and look at its output, the memory and the disk.

    `memory_bytes` are those of one worker by what they hold, `machine_memory_bytes` those of all workers on one
    machine, Ray and the driver included. `time_s` is there if this output has a log of the same training. `notes` are
    sentences about what does not fit, and about rows that are skipped or cut; `problem` is the one for which the run
    would be refused, or None. `start` is there with --from: the checkpoint, and the step after which the training
    begins. `sources` is there with --input-weights: each input with its `share` of an epoch, and how many `epochs` of
    its own that is. Raises RequestError or one of its
    subclasses where the run would before it starts, except for a disk that is too small.
    """
    plan = plan_finetune(spec)
    sample = sample_corpus(plan)
    device, dtype = _device(spec), _dtype(spec)
    memory = worker_memory(plan, sample, device=device, dtype=dtype)
    facts = _facts(plan, sample) | {"device": device, "dtype": dtype} | _output_facts(plan)
    facts |= {"trained_weights": count_trained(plan.config, spec), "weights": count_weights(plan.config)}
    facts |= {"memory_bytes": memory.to_dict(), "worker_memory_bytes": memory.total}
    machine = RAY_BYTES + DRIVER_BYTES + spec.workers * memory.on_host
    facts |= {"machine_memory_bytes": machine, "free_memory_bytes": free_host_bytes()}
    disk = disk_bytes(plan, tokens=sample.tokens, sequences=sample.sequences)
    facts |= {"disk_bytes": disk, "free_disk_bytes": free_bytes(plan.folder)}
    notes = [*plan.model.notices, *_row_notes(sample), *_machine_notes(plan, memory, facts)]
    problem = room_problem(plan, disk)
    return facts | {"notes": [*notes, *([problem] if problem else [])], "problem": problem}


def total_steps(spec: FinetuneSpec, sequences: int) -> int:
    """The number of optimizer steps over so many sequences."""
    return spec.max_steps or max(1, math.ceil(spec.epochs * sequences / spec.batch_size))


def _facts(plan: FinetunePlan, sample: CorpusSample) -> dict[str, Any]:
    spec = plan.spec
    steps = total_steps(spec, sample.sequences)
    start = {} if plan.start is None else {"start": plan.start.to_json(), **_steps_left(plan.start, steps, sample)}
    return (
        start
        | _source_facts(plan, sample)
        | {
            "kind": spec.kind,
            "model": spec.model,
            "model_bytes": plan.model.weight_bytes,
            "rows": sample.rows,
            "evaluation_rows": plan.evaluation.rows if plan.evaluation else 0,
            "labelled_rows": plan.labelled.rows if plan.labelled else 0,
            "seq_length": plan.seq_length,
            "packing": plan.packing,
            "documents": sample.documents,
            "tokens": sample.tokens,
            "sequences": sample.sequences,
            "is_exact": sample.is_exact,
            "sampled_rows": sample.account.rows,
            "sampled": {name: value for name, value in sample.account.facts().items() if name != "rows"},
            "steps": steps,
            "epochs": round(steps * spec.batch_size / sample.sequences, 3) if sample.sequences else None,
            "batch_size": spec.batch_size,
            "workers": spec.workers,
            "zero_stage": spec.zero_stage,
        }
    )


def _source_facts(plan: FinetunePlan, sample: CorpusSample) -> dict[str, Any]:
    """The rows and tokens of each source, and how much of it an epoch has; nothing without --input-weights."""
    if not plan.sources:
        return {}
    mixed = [Source(own.sequences, each.weight) for each, own in zip(plan.sources, sample.sources, strict=True)]
    drawn = epoch_counts(mixed) if all(source.count for source in mixed) else [source.count for source in mixed]
    total = max(1, sum(drawn))
    sources = [
        {
            **{"input": show_uri(each.name), "weight": each.weight, "rows": own.rows, "documents": own.documents},
            **{"tokens": own.tokens, "sequences": own.sequences, "share": count / total},
            "epochs": round(count / own.sequences, 3) if own.sequences else None,
        }
        for each, own, count in zip(plan.sources, sample.sources, drawn, strict=True)
    ]
    return {"sources": sources}


def _steps_left(start: TrainingStart, steps: int, sample: CorpusSample) -> dict[str, int]:
    """The steps that the training makes itself. Raises RequestError where the run would: it has none."""
    if sample.is_exact:
        check_steps(start.first_step, steps)
    return {"steps_left": max(0, steps - start.first_step)}


def _device(spec: FinetuneSpec) -> str:
    """What `--device auto` is on this machine; that of a cluster may be another."""
    if spec.device != "auto":
        return "cuda" if spec.device == "cuda" else "cpu"
    return "cuda" if count_gpus() >= spec.workers else "cpu"


def _dtype(spec: FinetuneSpec) -> str:
    """The dtype; `auto` is measured when the training starts, and bfloat16 needs less, so it counts as float32."""
    return "float32" if spec.dtype == "auto" else spec.dtype


def _output_facts(plan: FinetunePlan) -> dict[str, Any]:
    """What the run would find in its output; raises OutputError where it would."""
    output, identity = plan.open_output(), plan.identity()
    is_successor = names_output(plan.spec, plan.output)
    saved = output.find_request(identity, overwrite=plan.spec.overwrite, is_successor=is_successor)
    facts: dict[str, Any] = {"output": output.shown, "work_dir": str(output.folder)}
    if saved is None:
        return facts | {"output_state": "new", "would": "start a new training"}
    if output.read_manifest(saved) is not None:
        return facts | {"output_state": "complete", "would": "do nothing: the model is written"}
    log = output.read_log(saved["training"])
    done, total = max((entry["step"] for entry in log), default=0), saved["total_steps"]
    facts |= {"output_state": "unfinished", "would": f"resume: step {done:,} of {total:,} is in the log"}
    seconds = [entry["seconds"] for entry in log if "loss" in entry and "seconds" in entry]
    evaluations = [entry.get("seconds", 0.0) for entry in log if "loss" not in entry and "stopped" not in entry]
    if seconds:
        steps = max(0, total - done)
        rest = steps * (median(seconds) + sum(evaluations) / len(seconds))
        facts |= {"time_s": [round(rest / 1.3), round(rest * 1.3)], "time_source": "the log of this training"}
    return facts


def _row_notes(sample: CorpusSample) -> list[str]:
    notes = []
    about = "" if sample.is_exact else "about "
    account = sample.account
    for reason, found in account.by_reason.items():
        notes.append(f"{about}{found.rows / account.rows:.1%} of the rows are skipped ({reason}); {found.first}")
    if account.cut_texts:
        share = account.cut_texts / account.rows
        notes.append(
            f"{about}{share:.1%} of the texts are too long and lose {account.cut_tokens / account.cut_texts:,.0f} "
            "tokens on average; a longer --seq-length keeps more"
        )
    return notes


def _machine_notes(plan: FinetunePlan, memory: WorkerMemory, facts: dict[str, Any]) -> list[str]:
    notes = []
    spec, free = plan.spec, facts["free_memory_bytes"]
    if spec.address is None and free is not None and facts["machine_memory_bytes"] > free:
        notes.append(
            f"the training needs {bytes_text(facts['machine_memory_bytes'])} of memory, and this machine has "
            f"{bytes_text(free)} free: it may be killed; {_savings(spec, memory)} need less"
        )
    if facts["device"] == "cpu" and spec.address is None and spec.workers > usable_cores():
        notes.append(workers_note(spec.workers))
    return notes


def workers_note(workers: int) -> str:
    """The sentence about more workers than this machine has cores."""
    cores = usable_cores()
    return f"{workers} workers share {cores} core{'' if cores == 1 else 's'}: more than one for each core is slower"


def _savings(spec: FinetuneSpec, memory: WorkerMemory) -> str:
    """The settings that need less memory, for a sentence."""
    ways = [] if spec.lora_rank else ["--lora-rank 8"]
    if spec.micro_batch_size > 1 and memory.activations > memory.total / 5:
        ways.append("--micro-batch-size 1")
    if not spec.activation_checkpointing and memory.activations > memory.total / 5:
        ways.append("--activation-checkpointing")
    ways = ways or ["a shorter --seq-length"]
    return ways[0] if len(ways) == 1 else f"{', '.join(ways[:-1])} or {ways[-1]}"
