"""The command `tirazh history`: a table of the runs of one or several outputs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from tirazh.jobs import console
from tirazh.jobs.outputs.gold_flags import address
from tirazh.jobs.outputs.history_text import history_text


def add_history_flags(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `tirazh history`, besides those of every command."""
    parser.add_argument(
        "outputs", nargs="+", type=address, metavar="OUTPUT", help="output directory, or a pattern such as 'labelled/*'"
    )
    parser.add_argument("--endpoint-url", type=address, help="URL of an S3-compatible server or an Azure emulator")


def run_history(options: argparse.Namespace) -> int:
    """Run `tirazh history`. With --json every run is one line, with the output that it belongs to."""
    runs = find_runs(options.outputs, endpoint_url=options.endpoint_url)
    if options.json:
        for run in runs:
            console.say(json.dumps(run, ensure_ascii=not console.is_unicode()))
    elif not options.quiet:
        console.say(history_text(runs))
    return 0


def find_runs(outputs: list[str], *, endpoint_url: str | None = None) -> list[dict[str, Any]]:
    """The runs of all outputs, ordered by their begin, each with its `output`. Raises RequestError without any."""
    from tirazh.pipeline.history.find_outputs import matching_outputs
    from tirazh.pipeline.output.runs_file import read_runs
    from tirazh.pipeline.storage.errors import show_uri
    from tirazh.pipeline.storage.filesystem import Storage

    storage = Storage(endpoint_url)
    found = {files.directory: files for text in outputs for files in matching_outputs(text, storage)}
    runs: list[Mapping[str, Any]] = [
        {"output": show_uri(files.directory), **run} for files in found.values() for run in read_runs(files)
    ]
    return [dict(run) for run in sorted(runs, key=lambda run: str(run["begin"]))]
