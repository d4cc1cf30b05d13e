"""The commands: each one reads its arguments, calls the package that does the work and prints the result.

Slow imports are inside the functions, so that `--help` and a wrong request are answered at once.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, TextIO

from tirazh.errors import RequestError
from tirazh.jobs import console, notifying
from tirazh.jobs.cluster import commands as cluster
from tirazh.jobs.cluster import driver
from tirazh.jobs.finetune import run_training, show_training_plan
from tirazh.jobs.flags import given_settings
from tirazh.jobs.interrupts import interruptible
from tirazh.jobs.job_files.job_file import any_spec_from_file, read_job_file, resolve_flags, spec_from_file, spec_of
from tirazh.jobs.job_files.variables import make_variables
from tirazh.jobs.library_output import redirect_library_output
from tirazh.jobs.outputs.calibrate import run_calibration
from tirazh.jobs.outputs.evaluate import run_evaluation
from tirazh.jobs.outputs.history import run_history
from tirazh.jobs.outputs.prune import run_prune
from tirazh.jobs.outputs.relabel import run_relabelling
from tirazh.jobs.outputs.report import run_report
from tirazh.jobs.settings import FINETUNE, build_spec
from tirazh.jobs.tuning.command import run_tuning
from tirazh.model.config import ModelSettings
from tirazh.pipeline.finetune.spec import FinetuneSpec
from tirazh.pipeline.history.start_time import process_start
from tirazh.pipeline.spec import JobSpec, StepsSpec

if TYPE_CHECKING:
    from tirazh.jobs.progress import JobProgressDisplay

CONVERT_SETTINGS = tuple(flag.name for flag in fields(ModelSettings))


def run_kind(options: argparse.Namespace) -> int:
    """Run `tirazh classify`, `tirazh generate`, `tirazh score` or `tirazh embed`."""
    return _run_spec(spec_from_options(options.command, options), options)


def run_file(options: argparse.Namespace) -> int:
    """Run `tirazh run`: a job file of any kind."""
    given = {"address": options.address} if "address" in options else {}
    job = read_job_file(options.job, options.variables, overridden=given)
    if job.kind == FINETUNE:
        options.config = options.job
        return run_training(options)
    notifying.announce(options, job, kind=job.kind, given={}, check_only=options.dry_run)
    return _run_spec(spec_of(job, resolve_flags(given, job.variables, job.used)), options)


def _run_spec(spec: JobSpec | StepsSpec, options: argparse.Namespace) -> int:
    if options.dry_run:
        return _show_plan(spec, options)
    from tirazh.jobs.run import run

    redirected = redirect_library_output(spec.output, endpoint_url=spec.endpoint_url, wanted=not options.verbose)
    with console.only_json(options.json), redirected as stream:
        progress = _progress(options, stream, began=process_start())
        ending = driver.ending_in_order(progress)
        with interruptible(progress.interrupted, stream=stream, before=ending), driver.checked_cluster(spec, progress):
            manifest = run(spec, progress, options.track_tools)
        driver.log_result(progress, manifest)
    notifying.note_manifest(manifest)
    console.show_manifest(manifest, progress.last, wall_s=progress.wall_s, as_json=options.json, quiet=options.quiet)
    return 0


def spec_from_options(kind: str, options: argparse.Namespace) -> JobSpec:
    """Build the spec from the flags and, if one is named, the job file; flags override the file."""
    given = given_settings(options, kind)
    job = None if options.config is None else read_job_file(options.config, options.variables, overridden=given)
    variables = make_variables(None, options.variables) if job is None else job.variables
    given = resolve_flags(given, variables, () if job is None else job.used)
    notifying.announce(options, job, kind=kind, given=given, check_only=options.dry_run)
    if job is None:
        return build_spec(kind, given)
    if job.kind not in (None, kind):
        raise RequestError(f"{job.path} is a job of kind {job.kind}; run `tirazh run {job.path}`")
    return build_spec(kind, job.values | given, place=lambda name: "" if name in given else job.place(name))


def plan(options: argparse.Namespace) -> int:
    """Run `tirazh plan`."""
    spec = any_spec_from_file(options.job, options.variables)
    redirected = redirect_library_output(os.devnull, wanted=options.probe and not options.verbose)
    with redirected:
        if isinstance(spec, FinetuneSpec):
            if options.price_per_hour is not None:
                raise RequestError("--price-per-hour is for jobs over rows; the plan of a training has no cost")
            return show_training_plan(spec, options, probe=options.probe)
        return _show_plan(spec, options, probe=options.probe, price_per_hour=options.price_per_hour)


def preview(options: argparse.Namespace) -> int:
    """Run `tirazh preview`. The rows are printed as soon as they are made, the forecast after them."""
    spec = spec_from_file(options.job, options.variables)
    from tirazh.jobs.terminal.preview_text import preview_text
    from tirazh.pipeline.preview.steps import preview_spec

    is_text = not options.json and not options.quiet
    with (
        console.only_json(options.json),
        redirect_library_output(os.devnull, wanted=not options.verbose) as stream,
        interruptible(lambda: "interrupted; nothing was written", stream=stream),
    ):
        found = preview_spec(
            spec,
            rows=options.rows,
            tell=None if options.quiet else lambda text: print(f"{text} ...", file=stream, flush=True),
            on_rows=(lambda made: console.say(preview_text(made))) if is_text else None,
        )
    if options.json:
        console.show_facts(found, as_json=True, quiet=False)
    elif is_text:
        console.say("")
        shown = {name: value for name, value in found["forecast"].items() if name in console.FORECAST}
        console.show_facts(console.plan_facts(shown), as_json=False, quiet=False)
        for note in found["notes"]:
            console.say(f"note: {note}")
    return 0


def verify(options: argparse.Namespace) -> int:
    """Run `tirazh verify`."""
    from tirazh.pipeline.steps.verify import verify_output

    found = verify_output(options.output, endpoint_url=options.endpoint_url, skip_input=options.skip_input)
    return console.show_verification(found, as_json=options.json, quiet=options.quiet)


def convert(options: argparse.Namespace) -> int:
    """Run `tirazh convert`."""
    from tirazh.jobs.progress import ByteProgress
    from tirazh.model.convert import convert as convert_checkpoint
    from tirazh.pipeline.finetune.checkpoint_model import convert_stopped, find_stopped
    from tirazh.pipeline.settings import flag_name

    given = {name: value for name, value in vars(options).items() if name in CONVERT_SETTINGS}
    stopped = find_stopped(options.checkpoint)
    if stopped is not None and any(value is not None for value in given.values()):
        name = next(name for name, value in given.items() if value is not None)
        raise RequestError(f"{flag_name(name)} cannot be used with a training's checkpoint; its training says it")
    with interruptible(lambda: "interrupted; nothing was written"), ByteProgress(options.quiet) as progress:
        if stopped is not None:
            model = convert_stopped(stopped, options.out, dtype=options.dtype, progress=progress.show)
        else:
            model = convert_checkpoint(
                options.checkpoint,
                options.out,
                settings=ModelSettings(**given),
                dtype=options.dtype,
                progress=progress.show,
            )
    console.show_model(model, output=options.out, as_json=options.json, quiet=options.quiet)
    return 0


def demo(options: argparse.Namespace) -> int:
    """Run `tirazh demo`."""
    from tirazh.jobs.demo import run_demo

    silent = options.quiet or options.json
    with (
        redirect_library_output(f"{options.output}/labels", wanted=not options.verbose) as stream,
        interruptible(lambda: "interrupted; run `tirazh demo` to start again", stream=stream),
    ):
        facts = run_demo(
            options.output,
            progress=lambda: _progress(options, stream),
            say=(lambda text: None) if silent else console.say,
        )
    if options.json:
        console.show_facts(facts, as_json=True, quiet=False)
    return 0


def _show_plan(
    spec: JobSpec | StepsSpec, options: argparse.Namespace, *, probe: bool = False, price_per_hour: float | None = None
) -> int:
    from tirazh.jobs.planning import plan_facts

    with console.only_json(options.json):
        facts = plan_facts(spec, probe=probe, price_per_hour=price_per_hour)
    console.show_plan(facts, as_json=options.json, quiet=options.quiet)
    return 0


def _progress(options: argparse.Namespace, stream: TextIO, *, began: float | None = None) -> JobProgressDisplay:
    return driver.job_display("quiet" if options.quiet else options.progress, stream, began=began)


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "classify": run_kind,
    "generate": run_kind,
    "score": run_kind,
    "embed": run_kind,
    "finetune": run_training,
    "run": run_file,
    "plan": plan,
    "preview": preview,
    "tune": run_tuning,
    "verify": verify,
    "report": run_report,
    "evaluate": run_evaluation,
    "calibrate": run_calibration,
    "relabel": run_relabelling,
    "history": run_history,
    "prune": run_prune,
    "convert": convert,
    "submit": cluster.submit,
    "status": cluster.status,
    "logs": cluster.logs,
    "stop": cluster.stop,
    "resume": cluster.resume,
    "demo": demo,
}
