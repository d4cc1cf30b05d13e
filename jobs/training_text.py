"""What the screen says about a training: the figures of its plan, and those of its manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tirazh.jobs.progress import clock_text
from tirazh.model.byte_text import bytes_text
from tirazh.pipeline.finetune.row_account import cut_text, skipped_text


def plan_lines(plan: Mapping[str, Any]) -> dict[str, str]:
    """Return the figures of `describe_training` as names and values for people."""
    about = "" if plan["is_exact"] else "about "
    more = [(plan["evaluation_rows"], "to evaluate"), (plan["labelled_rows"], "with labels to evaluate")]
    rows = ", ".join([f"{plan['rows']:,}", *(f"{count:,} {what}" for count, what in more if count)])
    trained, weights = plan["trained_weights"], plan["weights"]
    lines = {
        "model": f"{plan['model']} ({bytes_text(plan['model_bytes'])})",
        "weights": f"{weights:,}, all trained" if trained == weights else f"{weights:,}, and {trained:,} of adapters",
        "rows": rows,
        **_source_lines(plan, about),
        "tokens": f"{about}{plan['tokens']:,} in {plan['documents']:,} documents",
        "sequences": f"{about}{plan['sequences']:,} of at most {plan['seq_length']:,} tokens ({plan['packing']})",
        "steps": f"{about}{plan['steps']:,} of {plan['batch_size']:,} sequences ({plan['epochs'] or 0:.3g} epochs)",
        **_start_lines(plan),
        "runs on": f"{plan['workers']:,} x {plan['device']} in {plan['dtype']}, ZeRO stage {plan['zero_stage']}",
    }
    lines |= _memory_lines(plan)
    lines["disk"] = f"{bytes_text(plan['disk_bytes'])} at most, {bytes_text(plan['free_disk_bytes'])} is free"
    if plan["work_dir"] != plan["output"]:
        lines["disk"] += f" in {plan['work_dir']}"
    if plan.get("time_s") is not None:
        low, high = plan["time_s"]
        lines["time"] = f"between {clock_text(low)} and {clock_text(high)} (from {plan['time_source']})"
    return lines | {"output": plan["output"], "would": plan["would"]}


def row_lines(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return what the manifest of a training says about rows that were skipped, and texts that were cut."""
    lines = {"skipped": skipped_text(manifest)}
    cut = cut_text(manifest)
    return lines | ({"cut": cut} if cut is not None else {})


def without_accounts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts without those that `row_lines` shows."""
    return {name: value for name, value in facts.items() if name not in ("skipped_reasons", "cut_texts", "cut_tokens")}


def _source_lines(plan: Mapping[str, Any], about: str) -> dict[str, str]:
    """The inputs that are mixed, by their places on the command line."""
    lines = {}
    for number, each in enumerate(plan.get("sources", ()), start=1):
        size = f"{each['rows']:,} rows, {about}{each['tokens']:,} tokens"
        share = f"{each['share']:.1%} of the sequences, in an epoch {each['epochs'] or 0:.3g} times its own"
        lines[f"input {number}"] = f"{each['input']}: {size}; {share}"
    return lines


def _start_lines(plan: Mapping[str, Any]) -> dict[str, str]:
    """Where a training with --from starts, and how many steps that leaves."""
    start = plan.get("start")
    if start is None:
        return {}
    place = f"the checkpoint of step {start['step']:,} in {start['folder']}"
    if not start["first_step"]:
        return {"from": f"{place}; it begins at step 0, as the data, the seed or the batches differ"}
    return {"from": f"{place}; {plan['steps_left']:,} steps are left"}


def _memory_lines(plan: Mapping[str, Any]) -> dict[str, str]:
    parts = ", ".join(f"{name} {bytes_text(count)}" for name, count in plan["memory_bytes"].items() if count)
    free = plan["free_memory_bytes"]
    has = "" if free is None else f", {bytes_text(free)} is free"
    return {
        "worker memory": f"{bytes_text(plan['worker_memory_bytes'])}: {parts}",
        "machine memory": f"{bytes_text(plan['machine_memory_bytes'])}{has}",
    }
