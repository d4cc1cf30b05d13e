"""The command `tirazh finetune`: reads its arguments, trains and prints the result."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tirazh.errors import JobError, RequestError
from tirazh.jobs import console, notifying
from tirazh.jobs.cluster import driver
from tirazh.jobs.flags import given_settings
from tirazh.jobs.interrupts import interruptible
from tirazh.jobs.job_files.job_file import read_job_file, resolve_flags
from tirazh.jobs.job_files.variables import make_variables
from tirazh.jobs.library_output import redirect_library_output
from tirazh.jobs.settings import FINETUNE, build_finetune_spec
from tirazh.jobs.tracking import tracked
from tirazh.pipeline.finetune.spec import FinetuneSpec
from tirazh.pipeline.settings import flag_name

if TYPE_CHECKING:
    from tirazh.pipeline.finetune.progress import TrainingProgress
    from tirazh.pipeline.finetune.summary import TrainingStopped

# Seconds that an interrupted training run may take to finish its step and write a checkpoint.
_SAVING_S = 60.0


def run_training(options: argparse.Namespace) -> int:
    """Run the command and return its exit code. Raises TirazhError."""
    spec = _spec_from_options(options)
    if options.dry_run:
        return show_training_plan(spec, options, refuses=True)
    from tirazh.jobs.training_text import row_lines, without_accounts
    from tirazh.pipeline.finetune.run import run_finetune
    from tirazh.pipeline.finetune.summary import TrainingStopped

    redirected = redirect_library_output(spec.output, endpoint_url=spec.endpoint_url, wanted=not options.verbose)
    with console.only_json(options.json), redirected as stream:
        display = driver.training_display("quiet" if options.quiet else options.progress, stream, output=spec.output)
        tracking = tracked(spec, options.track_tools)
        patience_s = driver.saving_s(_SAVING_S)
        with (
            interruptible(display.interrupted, stream=stream, patience_s=patience_s),
            driver.checked_cluster(spec, display),
            display,
            tracking as tracker,
        ):

            def show(event: TrainingProgress) -> None:
                display.show(event)
                tracker.show(event)

            try:
                # Ray prints a paragraph of its own about a worker that died, which goes to the log like the rest of it.
                with console.only_json(True):
                    manifest = run_finetune(spec, on_progress=show, tell=display.say)
            except TrainingStopped as error:
                raise with_command(error, sys.argv) from None
            tracker.finish(manifest)
        driver.log_result(display, manifest)
    notifying.note_manifest(manifest)
    facts = _facts(manifest)
    if not options.json:
        facts = without_accounts(facts) | row_lines(manifest)
    console.show_facts(facts, as_json=options.json, quiet=options.quiet)
    return 0


def with_command(error: TrainingStopped, argv: Sequence[str]) -> JobError:
    """Return the error with the whole command that continues from the last good checkpoint, where there is one."""
    if not error.changes or list(argv[1:2]) != [FINETUNE]:
        return error
    changes = {flag_name(name): str(value) for name, value in error.changes.items()}
    # A flag that is given twice is refused; --overwrite and --fresh-optimizer belong to the training that stopped.
    words = iter(argv[2:])
    kept = []
    for word in words:
        flag, _, value = word.partition("=")
        if flag in changes:
            next(words if not value else iter(()), None)
        elif flag not in ("--overwrite", "--fresh-optimizer"):
            kept.append(word)
    new = [text for item in changes.items() for text in item]
    return JobError(f"{error.sentence}, run: {shlex.join(['tirazh', FINETUNE, *kept, *new])}")


def _spec_from_options(options: argparse.Namespace) -> FinetuneSpec:
    given = given_settings(options, FINETUNE)
    job = None if options.config is None else read_job_file(options.config, options.variables, overridden=given)
    variables = make_variables(None, options.variables) if job is None else job.variables
    given = resolve_flags(given, variables, () if job is None else job.used)
    notifying.announce(options, job, kind=FINETUNE, given=given, check_only=options.dry_run)
    if job is None:
        return build_finetune_spec(given)
    if job.kind not in (None, FINETUNE):
        raise RequestError(f"{job.path} is a job of kind {job.kind}; run `tirazh {job.kind} --config {job.path}`")
    return build_finetune_spec(job.values | given, place=lambda name: "" if name in given else job.place(name))


def show_training_plan(
    spec: FinetuneSpec, options: argparse.Namespace, *, probe: bool = False, refuses: bool = False
) -> int:
    """Print what the training would do. With `refuses` a disk that is too small is an error. Raises TirazhError."""
    from tirazh.jobs.planning import training_facts
    from tirazh.jobs.training_text import plan_lines

    with console.only_json(options.json):
        facts = training_facts(spec, probe=probe, refuses=refuses)
    console.show_facts(facts if options.json else plan_lines(facts), as_json=options.json, quiet=options.quiet)
    if not options.json and not options.quiet:
        for note in facts["notes"]:
            console.say(f"note: {note}")
    return 0


def _facts(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of the manifest that the summary prints."""
    names = ("output", "total_steps", "model_step", "sequences", "trained_tokens", "skipped", "first_loss", "last_loss")
    accounts = (name for name in ("skipped_reasons", "cut_texts", "cut_tokens") if name in manifest)
    before = {f"{name}_before": value for name, value in manifest["evaluation_before"].items() if name != "step"}
    evaluation = {name: value for name, value in manifest["evaluation"].items() if name != "step"}
    facts = {name: manifest[name] for name in (*names, "seconds", *accounts)} | before | evaluation
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in facts.items()}
