"""Runs `tirazh tune`, and prints what it found."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import Any

from tirazh.jobs import console
from tirazh.jobs.interrupts import interruptible
from tirazh.jobs.job_files.job_file import JobFile, read_job_file, spec_of
from tirazh.jobs.library_output import redirect_library_output
from tirazh.jobs.yaml_values.structures import read_structure
from tirazh.pipeline.output.leases.lease import Tell
from tirazh.pipeline.tuning.settings import TuneSettings


def run_tuning(options: argparse.Namespace) -> int:
    """Run `tirazh tune`. Progress is printed to stderr, the table and the figures to stdout."""
    job = read_job_file(options.job, options.variables)
    job.variables.refuse_unused(job.used)
    names = ("gold", "gold_label", "out", "token_budget", "metric", "rows", "seed", "search", "overwrite")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    with (
        console.only_json(options.json),
        redirect_library_output(os.devnull, wanted=not options.verbose) as stream,
        interruptible(lambda: "interrupted; nothing was written", stream=stream),
    ):
        is_quiet = options.quiet or options.json
        tell = None if is_quiet else lambda text: print(f"{text} ...", file=stream, flush=True)
        facts = tune_file(job, given, tell=tell)
    if options.json:
        console.show_facts(facts, as_json=True, quiet=False)
    elif not options.quiet:
        from tirazh.jobs.tuning.text import tune_text

        console.say(tune_text(facts))
    return 0


def tune_file(job: JobFile, given: Mapping[str, Any], *, tell: Tell | None) -> dict[str, Any]:
    """Tune the job of a job file; `given` are values of `TuneSettings`. Raises RequestError."""
    values = dict(given)
    if values.get("search") is not None:
        values["search"] = read_structure("search", values["search"])
    for name in ("gold", "out"):
        values[name] = os.fspath(values[name])
    settings = TuneSettings(**values)
    spec = spec_of(job)
    from tirazh.pipeline.tuning.run import tune_job

    return tune_job(spec, settings, values=job.values, job_file=job.path, tell=tell)
