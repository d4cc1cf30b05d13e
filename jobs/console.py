"""What the commands print on stdout: summaries for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tirazh.jobs.progress import bytes_text, clock_text
from tirazh.pipeline.storage.errors import show_uri

if TYPE_CHECKING:
    from tirazh.model.checkpoints.directory import ModelSummary
    from tirazh.pipeline.execution.metrics import ProgressEvent
    from tirazh.pipeline.output.ledger import Verification


@contextmanager
def only_json(wanted: bool) -> Iterator[None]:
    """While the work goes on, whatever libraries print goes to stderr: stdout is for the one JSON text."""
    saved = sys.stdout
    if wanted:
        sys.stdout = sys.stderr
    try:
        yield
    finally:
        sys.stdout = saved


def write(text: str) -> None:
    """Pass text through as it is."""
    sys.stdout.write(text)
    sys.stdout.flush()


def say(text: str) -> None:
    """A line for people, at once."""
    print(text, flush=True)


def show_facts(facts: Mapping[str, Any], *, as_json: bool, quiet: bool) -> None:
    """Names and values, one on each line, the values aligned."""
    if as_json:
        print(json.dumps(dict(facts), ensure_ascii=False, indent=2, default=str))
    elif not quiet:
        width = max((len(name) for name in facts), default=0)
        for name, value in facts.items():
            print(f"{name:<{width}}  {_shown(value)}")


def show_manifest(manifest: Mapping[str, Any], last: ProgressEvent | None, *, as_json: bool, quiet: bool) -> None:
    """What a finished job has made. As JSON the manifest without its list of parts; `last` tells what this run did."""
    if as_json:
        facts: dict[str, Any] = {name: value for name, value in manifest.items() if name != "parts"}
        show_facts(facts, as_json=True, quiet=quiet)
        return
    facts = {"rows": _rows_in_words(manifest, last)}
    if "labels" in manifest:
        facts["labels"] = _shares(manifest["labels"], manifest["abstained"])
    if "accuracy" in manifest:
        facts["accuracy"] = (
            f"{manifest['accuracy']:.3f} of {manifest['gold_rows']:,} rows (macro-F1 {manifest['macro_f1']:.3f})"
        )
    facts["tokens"] = f"{manifest['prompt_tokens']:,} of prompts, {manifest['completion_tokens']:,} of completions"
    if last is not None and manifest["seconds"]:
        facts["speed"] = _speed(manifest, last)
    facts["output"] = manifest["output"]
    facts["report"] = f"{manifest['output']}/_tirazh/report.html"
    show_facts(facts, as_json=False, quiet=quiet)


def show_verification(found: Verification, *, as_json: bool, quiet: bool) -> int:
    """What `verify` found; the exit code is 0 when everything is there, else 1."""
    if as_json:
        print(json.dumps(asdict(found) | {"is_whole": found.is_whole}, ensure_ascii=False, indent=2))
    elif not quiet:
        for problem in found.problems:
            print(problem)
        whole = "whole" if found.is_whole else "NOT whole"
        print(
            f"{whole}: {found.rows:,} of {found.rows_expected:,} rows, "
            f"{found.parts:,} of {found.parts_expected:,} parts in {found.output}"
        )
    return 0 if found.is_whole else 1


def show_plan(plan: Mapping[str, Any], *, as_json: bool, quiet: bool) -> None:
    """What a job would do: files, rows, parts, tokens, the model, memory and time."""
    facts = {name: value for name, value in plan.items() if value not in (None, [])}
    if not as_json:
        facts = {name.removesuffix("_s").replace("_", " "): _in_words(name, value) for name, value in facts.items()}
    show_facts(facts, as_json=as_json, quiet=quiet)


def show_model(model: ModelSummary, *, output: str, as_json: bool, quiet: bool) -> None:
    """What a converted checkpoint has become."""
    facts: dict[str, Any] = {"output": output, "fingerprint": model.fingerprint, "weight_bytes": model.weight_bytes}
    if model.config is not None:
        facts |= {"config": model.config.to_dict()}
    facts["tokenizer"] = model.tokenizer_dir
    if not as_json:
        config = facts.pop("config", {})
        facts["weight bytes"] = bytes_text(facts.pop("weight_bytes"))
        facts["tokenizer"] = facts["tokenizer"] or "none; give --tokenizer when you use this directory"
        facts |= {name.replace("_", " "): value for name, value in config.items() if name != "sparse_pattern"}
    show_facts(facts, as_json=as_json, quiet=quiet)


def show_status(info: Mapping[str, Any], log: str, *, as_json: bool, quiet: bool) -> None:
    """A submitted job's state, since when, and the last thing it said."""
    facts: dict[str, Any] = {"job": info["id"], "status": info["status"].lower()}
    if info["start_time"]:
        facts["started"] = datetime.fromtimestamp(info["start_time"]).isoformat(sep=" ", timespec="seconds")
    if info["end_time"]:
        facts["took"] = clock_text(info["end_time"] - info["start_time"])
    last = [line for line in log.splitlines() if line.strip()][-1:]
    if last:
        facts["last_line"] = last[0]
    elif info["message"]:
        facts["message"] = info["message"]
    if not as_json:
        facts = {name.replace("_", " "): value for name, value in facts.items()}
    show_facts(facts, as_json=as_json, quiet=quiet)


def show_submitted(job_id: str, address: str | None, *, as_json: bool, quiet: bool) -> None:
    """The id alone with -q, so that scripts can take it; with what to do next otherwise."""
    if as_json:
        print(json.dumps({"job": job_id}))
    elif quiet:
        print(job_id)
    else:
        at = f" --address {show_uri(address)}" if address else ""
        print(f"submitted {job_id}\n  tirazh status {job_id}{at}\n  tirazh logs {job_id}{at} --follow")


def _rows_in_words(manifest: Mapping[str, Any], last: ProgressEvent | None) -> str:
    words = f"{manifest['rows']:,}"
    if manifest["errors"]:
        words += f", {manifest['errors']:,} of them with an error"
        kinds = ", ".join(f"{kind} ({count:,})" for kind, count in list(manifest.get("error_kinds", {}).items())[:3])
        words += f": {kinds}" if kinds else ""
    if last is None:
        words += " (all were there already; nothing was left to do)"
    elif last.rows_resumed:
        words += f" ({last.rows_resumed:,} were there already)"
    return words


def _shares(labels: Mapping[str, int], abstained: int) -> str:
    total = sum(labels.values()) + abstained
    counts = [*list(labels.items())[:8], *([("(abstained)", abstained)] if abstained else [])]
    more = f", and {len(labels) - 8} more" if len(labels) > 8 else ""
    return ", ".join(f"{label} {count / total:.0%}" for label, count in counts) + more


def _speed(manifest: Mapping[str, Any], last: ProgressEvent) -> str:
    rows = (last.rows_total - last.rows_resumed) / manifest["seconds"]
    return f"{rows:,.1f} rows/s, {manifest['tokens_per_s']:,.0f} tokens/s, {clock_text(manifest['seconds'])}"


def _in_words(name: str, value: Any) -> Any:
    if name.endswith("_bytes"):
        return bytes_text(value)
    if name == "time_s":
        low, high = value
        return f"between {clock_text(low)} and {clock_text(high)}, depending on the machine"
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.3g}" if isinstance(value, float) else str(value)
