"""What the commands print on stdout: summaries for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from jobs.progress import clock_text
from pipeline.storage_errors import show_uri


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


def show_facts(facts: Mapping[str, Any], *, as_json: bool, quiet: bool) -> None:
    """Names and values, one on each line, the values aligned."""
    if as_json:
        print(json.dumps(dict(facts), ensure_ascii=False, indent=2, default=str))
    elif not quiet:
        width = max((len(name) for name in facts), default=0)
        for name, value in facts.items():
            print(f"{name:<{width}}  {_shown(value)}")


def show_status(info: Mapping[str, Any], log: str, *, as_json: bool, quiet: bool) -> None:
    """A submitted job's state, since when, and the last thing it said."""
    facts: dict[str, Any] = {"job": info["id"], "status": info["status"].lower()}
    if info["start_time"]:
        facts["started"] = datetime.fromtimestamp(info["start_time"]).isoformat(sep=" ", timespec="seconds")
    if info["end_time"]:
        facts["took"] = clock_text(info["end_time"] - info["start_time"])
    last = [line for line in log.splitlines() if line.strip()][-1:]
    if last:
        facts["last line"] = last[0]
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


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.3g}" if isinstance(value, float) else str(value)
