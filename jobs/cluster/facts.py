"""What the commands tell about submitted jobs: as facts for programs, and as text."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tirazh.jobs import console
from tirazh.jobs.cluster.job_log import last_figures, stopped_text, text_of
from tirazh.jobs.cluster.job_server import FINISHED
from tirazh.jobs.progress import clock_text, utc_text
from tirazh.jobs.settings import FINETUNE
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.secrets import redact

if TYPE_CHECKING:
    from tirazh.jobs.cluster.submit import Submission

_NUMBERS = ("rows", "rows_safe", "rows_total", "parts", "parts_total", "errors", "eta_s", "tokens_per_s", "replicas")
# Those of a training.
_OF_TRAINING = ("steps", "steps_saved", "steps_total", "loss", "evaluation")
# Of a job that has ended these say nothing any more.
_OF_RUNNING = ("eta_s", "replicas")


def job_facts(info: Mapping[str, Any], log: str) -> dict[str, Any]:
    """Return the state of a job for programs: times in UTC, numbers as numbers, None for what is not known.

    `took_s` are seconds; `rows` are answered rows, `rows_safe` those in written parts; `eta_s` are seconds to the end.
    A training has `steps`, of which the newest checkpoint holds `steps_saved`, and no rows.
    """
    figures = last_figures(log)
    is_training = _settings(info).get("kind") == FINETUNE
    numbers = {name: figures.get(name) for name in (*_NUMBERS, *(_OF_TRAINING if is_training else ()))}
    if info["status"] in FINISHED:
        numbers |= dict.fromkeys(_OF_RUNNING)
    end = info["end_time"] or datetime.now(UTC).timestamp()
    lines = [line for line in text_of(log).splitlines() if line.strip()]
    message = next((line for line in info["message"].splitlines() if line.strip()), "")
    return {
        "job": info["id"],
        "state": info["status"].lower(),
        "begin": _utc(info["start_time"]),
        "end": _utc(info["end_time"]),
        "took_s": round(end - info["start_time"], 1) if info["start_time"] else None,
        **numbers,
        "figures_at": figures.get("time"),
        "exit_code": _exit_code(info),
        "output": _output(info),
        "last_line": redact(lines[-1]) if lines else None,
        "message": redact(message)[:300] if message and not lines else None,
    }


def show_status(facts: Mapping[str, Any], *, as_json: bool, quiet: bool) -> None:
    """Print the state of one job."""
    if as_json:
        console.show_facts(facts, as_json=True, quiet=quiet)
        return
    shown = {"job": facts["job"], "state": facts["state"]}
    if facts["begin"]:
        shown |= {"started": facts["begin"], "took": clock_text(facts["took_s"])}
    if facts["rows_total"] is not None:
        shown["rows"] = f"{facts['rows']:,} of {facts['rows_total']:,} answered, {facts['rows_safe']:,} safe"
    if facts.get("steps_total") is not None:
        shown |= _training_lines(facts)
    if facts["parts_total"] is not None:
        shown["parts"] = f"{facts['parts']:,} of {facts['parts_total']:,} written"
    if facts["errors"]:
        shown["errors"] = f"{facts['errors']:,}"
    if facts["eta_s"] is not None:
        shown["left"] = clock_text(facts["eta_s"])
    more = {"exit code": facts["exit_code"], "output": facts["output"]}
    more |= {"last line": facts["last_line"], "message": facts["message"]}
    shown |= {name: value for name, value in more.items() if value is not None}
    console.show_facts(shown, as_json=False, quiet=quiet)


def _training_lines(facts: Mapping[str, Any]) -> dict[str, str]:
    """What is shown about a training: its steps, its loss and its last evaluation."""
    saved = f"checkpoint of step {facts['steps_saved']:,}" if facts["steps_saved"] else "no checkpoint yet"
    shown = {"steps": f"{facts['steps']:,} of {facts['steps_total']:,}, {saved}"}
    if facts["loss"] is not None:
        shown["loss"] = f"{facts['loss']:.3f}"
    return shown | {name.replace("_", " "): f"{value:.4g}" for name, value in (facts["evaluation"] or {}).items()}


def show_jobs(jobs: Sequence[Mapping[str, Any]], *, as_json: bool, quiet: bool) -> None:
    """Print one line for each job, the newest first; as JSON a list of the facts of each."""
    if as_json:
        console.show_list(jobs)
        return
    if quiet:
        return
    if not jobs:
        print("no job of tirazh is on this cluster")
        return
    rows = [("job", "state", "started", "took", "rows", "output"), *map(_cells, jobs)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def show_stopped(info: Mapping[str, Any], log: str, *, was_running: bool, as_json: bool, quiet: bool) -> None:
    """Print which rows of a stopped job are safe, or in one sentence that it had ended before."""
    if as_json:
        show_status(job_facts(info, log), as_json=True, quiet=quiet)
    elif not quiet and was_running and info["status"] == "STOPPED":
        figures = last_figures(log)
        is_training = _settings(info).get("kind") == FINETUNE
        print(f"{info['id']} {stopped_text(figures, is_training=is_training)}")
        rest = "makes the rest"
        if is_training:
            rest = "goes on from it" if figures.get("steps_saved") else "starts it again"
        print(f"  `tirazh resume {info['id']}` {rest}")
    elif not quiet:
        took = f" after {clock_text(info['end_time'] - info['start_time'])}" if info["end_time"] else ""
        end = {"SUCCEEDED": "succeeded", "FAILED": "failed", "STOPPED": "was stopped"}[info["status"]]
        print(f"{info['id']} has ended already, so there is nothing to stop: it {end}{took}")


def show_submitted(submission: Submission, address: str | None, *, as_json: bool, quiet: bool) -> None:
    """Print the id of a submitted job, and without -q the commands to use next."""
    job_id = submission.job_id
    if as_json:
        print(json.dumps({"job": job_id, "was_running": submission.was_running}), flush=True)
        return
    if quiet:
        print(job_id, flush=True)
        return
    at = f" --address {show_uri(address)}" if address else ""
    if submission.was_running:
        print(f"{job_id} is already running, so it was not submitted again")
        if submission.other_settings:
            print(f"  it keeps its own {', '.join(submission.other_settings)}; stop it first to change them")
    else:
        print(f"submitted {job_id}")
    print(f"  tirazh status {job_id}{at}\n  tirazh logs {job_id}{at} --follow", flush=True)


def tell(text: str) -> None:
    """Print a note to stderr."""
    print(f"tirazh: {text}", file=sys.stderr, flush=True)


def _cells(facts: Mapping[str, Any]) -> tuple[str, ...]:
    rows = "-" if facts["rows_total"] is None else f"{facts['rows']:,}/{facts['rows_total']:,}"
    if facts.get("steps_total") is not None:
        rows = f"{facts['steps']:,}/{facts['steps_total']:,} steps"
    took = "-" if facts["took_s"] is None else clock_text(facts["took_s"])
    return facts["job"], facts["state"], facts["begin"] or "-", took, rows, facts["output"] or "-"


def _exit_code(info: Mapping[str, Any]) -> int | None:
    if info["status"] == "SUCCEEDED":
        return 0
    return info["driver_exit_code"] if info["status"] in FINISHED else None


def _output(info: Mapping[str, Any]) -> str | None:
    output = _settings(info).get("output")
    return None if output is None else show_uri(str(output))


def _settings(info: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a job was submitted with; {} for a job of another program."""
    from tirazh.jobs.cluster.submit import JOB_KEY

    try:
        found = json.loads(info["metadata"][JOB_KEY])
    except (KeyError, ValueError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _utc(seconds: float) -> str | None:
    return utc_text(datetime.fromtimestamp(seconds, UTC)) if seconds else None
