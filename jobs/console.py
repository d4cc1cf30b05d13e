"""Prints the results of the commands to stdout, as text or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tirazh.jobs.progress import clock_text
from tirazh.jobs.terminal.streams import write_error
from tirazh.model.byte_text import bytes_text
from tirazh.pipeline.report.examples import examples_text
from tirazh.pipeline.storage.secrets import redact

if TYPE_CHECKING:
    from tirazh.model.checkpoints.directory import ModelSummary
    from tirazh.pipeline.execution.metrics import ProgressEvent
    from tirazh.pipeline.output.verify import Verification

# What a preview shows of its forecast.
FORECAST = (
    *("rows", "dtype", "estimated_tokens", "mean_prompt_tokens", "mean_shared_prompt_tokens"),
    *("mean_completion_tokens", "tokens_source", "rank_weight_bytes", "rank_cache_bytes", "tokens_per_s"),
    *("time_s", "time_source"),
)


@contextmanager
def only_json(wanted: bool) -> Iterator[None]:
    """Redirect prints of libraries to stderr, so that stdout holds only the JSON result."""
    saved = sys.stdout
    if wanted:
        sys.stdout = sys.stderr
    try:
        yield
    finally:
        sys.stdout = saved


def write(text: str) -> None:
    """Write text to stdout unchanged. Raises OSError, so that a log is not followed for a reader that has gone away."""
    sys.stdout.write(text)
    if error := write_error(sys.stdout):
        raise error


def say(text: str) -> None:
    """Print a line and flush it."""
    print(text, flush=True)


def show_facts(facts: Mapping[str, Any], *, as_json: bool, quiet: bool) -> None:
    """Print names and values, one pair on each line, with aligned values."""
    if as_json:
        _print_json(dict(facts))
    elif not quiet:
        width = max((len(name) for name in facts), default=0)
        for name, value in facts.items():
            print(f"{name:<{width}}  {_shown(value)}")


def show_manifest(
    manifest: Mapping[str, Any],
    last: ProgressEvent | None,
    *,
    wall_s: float | None = None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Print the summary of a finished job, or its manifest without the list of parts as JSON.

    `last` is the last progress event of this run; None means that the job was finished before. `wall_s` are the seconds
    of the whole command.
    """
    if as_json:
        facts: dict[str, Any] = {name: value for name, value in manifest.items() if name != "parts"}
        show_facts(facts, as_json=True, quiet=quiet)
        return
    facts = {"rows": _rows_text(manifest, last)}
    facts |= _answers("labels", "accuracy", manifest)
    for name, answers in (manifest.get("questions") or {}).items():
        facts |= _answers(f"{name} labels", f"{name} accuracy", answers)
    facts["tokens"] = f"{manifest['prompt_tokens']:,} prompt, {manifest['completion_tokens']:,} completion"
    # The speed of this run only: the manifest counts the rows of earlier runs, too.
    if last is not None and manifest["seconds"]:
        facts["speed"] = _speed(manifest, last)
    if wall_s is not None:
        facts["took"] = clock_text(wall_s)
    facts["output"] = manifest["output"]
    facts["report"] = f"{manifest['output']}/_tirazh/report.html"
    if manifest.get("responses"):
        facts["responses"] = manifest["responses"]
    show_facts(facts, as_json=False, quiet=quiet)


def show_verification(found: Verification, *, as_json: bool, quiet: bool) -> int:
    """Print a verification. Returns the exit code: 0 when there are no problems, else 1."""
    if as_json:
        _print_json(asdict(found) | {"is_whole": found.is_whole})
    elif not quiet:
        for line in (*found.problems, *(f"note: {note}" for note in found.notes)):
            print(line)
        verdict = "OK" if found.is_whole else "FAILED"
        rows = f"{found.rows:,}/{found.rows_expected:,} rows"
        print(f"{verdict}: {rows}, {found.parts:,}/{found.parts_expected:,} parts verified in {found.output}")
    return 0 if found.is_whole else 1


def show_plan(plan: Mapping[str, Any], *, as_json: bool, quiet: bool) -> None:
    """Print what a job would do: files, rows, parts, tokens, the model, memory, time, and its output."""
    if as_json:
        show_facts(plan, as_json=True, quiet=quiet)
        return
    facts = plan_facts(plan)
    show_facts(facts, as_json=False, quiet=quiet)
    if not quiet:
        for note in plan.get("notes", ()):
            print(f"note: {note}")


def plan_facts(plan: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a plan or of a forecast as names and values for people."""
    # A share is in a note, if it is not 0.
    hidden = ("notes", "time_source", "sampled_rows", "cut_share", "error_share")
    given = {name: value for name, value in plan.items() if value not in (None, []) and name not in hidden}
    facts = {name.removesuffix("_s").replace("_", " "): _value_text(name, value) for name, value in given.items()}
    if "tokens per" in facts:
        facts["speed"] = f"{facts.pop('tokens per'):,.0f} tokens/s"
    if "time" in facts:
        facts["time"] = f"{facts['time']} (from {plan['time_source']})"
    return facts


def show_model(model: ModelSummary, *, output: str, as_json: bool, quiet: bool) -> None:
    """Print a converted checkpoint."""
    facts: dict[str, Any] = {"output": output, "fingerprint": model.fingerprint, "weight_bytes": model.weight_bytes}
    if model.config is not None:
        facts |= {"config": model.config.to_dict()}
    facts["tokenizer"] = model.tokenizer_dir
    if as_json and model.notices:
        facts["notes"] = list(model.notices)
    if not as_json:
        config = facts.pop("config", {})
        facts["weight bytes"] = bytes_text(facts.pop("weight_bytes"))
        facts["tokenizer"] = facts["tokenizer"] or "none; use this directory with --tokenizer"
        facts |= {name.replace("_", " "): value for name, value in config.items() if name != "sparse_pattern"}
    show_facts(facts, as_json=as_json, quiet=quiet)
    if not quiet and not as_json:
        for note in model.notices:
            print(f"note: {note}")


def warn(text: str) -> None:
    """Print a warning of one sentence to stderr."""
    print(f"tirazh: warning: {text}", file=sys.stderr, flush=True)


def fail(text: str) -> None:
    """Print why a command fails, one sentence without secrets and control characters, to stderr."""
    line = " ".join(redact(text).split())
    print(
        f"tirazh: {''.join(each if each.isprintable() else chr(0xFFFD) for each in line)}", file=sys.stderr, flush=True
    )


def is_unicode() -> bool:
    """Whether stdout takes every character. An escape that the stream makes of one that it does not is not JSON."""
    return (sys.stdout.encoding or "").lower().startswith("utf")


def show_list(entries: Sequence[Mapping[str, Any]]) -> None:
    """Print a list of facts as JSON."""
    _print_json([dict(each) for each in entries])


def _print_json(facts: Mapping[str, Any] | list[dict[str, Any]]) -> None:
    print(json.dumps(facts, ensure_ascii=not is_unicode(), indent=2, default=str))


def _rows_text(manifest: Mapping[str, Any], last: ProgressEvent | None) -> str:
    text = f"{manifest['rows']:,}"
    if manifest["errors"]:
        text += f", {manifest['errors']:,} with an error"
        kinds = ", ".join(f"{kind} ({count:,})" for kind, count in list(manifest.get("error_kinds", {}).items())[:3])
        text += f": {kinds}" if kinds else ""
    if last is None:
        text += " (all from an earlier run; nothing was left to do)"
    elif last.rows_resumed:
        text += f" ({last.rows_resumed:,} from an earlier run)"
    return text


def _answers(labels: str, accuracy: str, facts: Mapping[str, Any]) -> dict[str, str]:
    """What the summary says about the answers to one question, under these two names."""
    found = {labels: _shares(facts["labels"], facts["abstained"])} if "labels" in facts else {}
    if "accuracy" in facts:
        gold = f"{facts['accuracy']:.3f} of {facts['gold_rows']:,} rows (macro-F1 {facts['macro_f1']:.3f})"
        found[accuracy] = gold
    return found


def _shares(labels: Mapping[str, int], abstained: int) -> str:
    total = sum(labels.values()) + abstained
    counts = [*list(labels.items())[:8], *([("(abstained)", abstained)] if abstained else [])]
    more = f", and {len(labels) - 8} more" if len(labels) > 8 else ""
    return ", ".join(f"{label} {count / total:.0%}" for label, count in counts) + more


def _speed(manifest: Mapping[str, Any], last: ProgressEvent) -> str:
    rows = (last.rows_total - last.rows_resumed) / manifest["seconds"]
    wall = f" ({clock_text(manifest['seconds_wall'])} with start-up)" if manifest.get("seconds_wall") else ""
    return f"{rows:,.1f} rows/s, {manifest['tokens_per_s']:,.0f} tokens/s, {clock_text(manifest['seconds'])}{wall}"


def _value_text(name: str, value: Any) -> Any:
    if name == "few_shot":
        return examples_text(value)
    if name.endswith("_bytes"):
        return bytes_text(value)
    if name == "time_s":
        low, high = value
        return f"between {clock_text(low)} and {clock_text(high)}"
    if name == "cost":
        low, high = value
        return f"between {low:,.2f} and {high:,.2f}"
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.3g}" if isinstance(value, float) else str(value)
