"""The command `tirazh status OUTPUT`: the state of an output, without a cluster."""

from __future__ import annotations

import argparse

from tirazh.jobs import console
from tirazh.jobs.outputs.history_text import status_facts


def show_output_status(options: argparse.Namespace) -> int:
    """Print the state of the output `options.id`.

    The exit code is 1 for a failed one, for one that is not finished and not being written, for a missing one, and with
    --max-age for one whose last success is older.
    """
    from tirazh.pipeline.history.ages import parse_duration
    from tirazh.pipeline.history.state import output_status
    from tirazh.pipeline.output.names import OutputFiles
    from tirazh.pipeline.storage.filesystem import Storage

    max_age = getattr(options, "max_age", None)
    max_age_s = None if max_age is None else parse_duration(max_age, flag="--max-age")
    files = OutputFiles.at(options.id, Storage(getattr(options, "endpoint_url", None)))
    found = output_status(files, max_age_s=max_age_s)
    facts = found.to_dict() | {"exit_code": 1 if found.problem else 0} if options.json else status_facts(found)
    console.show_facts(facts, as_json=options.json, quiet=options.quiet)
    if found.problem and options.quiet and not options.json:
        console.warn(found.problem)
    return 1 if found.problem else 0
