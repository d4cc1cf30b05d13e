"""The commands for jobs on a cluster: submit, status, logs, stop and resume."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from tirazh.errors import RequestError
from tirazh.jobs import console, notifying
from tirazh.jobs.job_files.job_file import any_spec_of, read_job_file
from tirazh.jobs.outputs.output_status import show_output_status
from tirazh.jobs.tracking import VARIABLE as TRACK_VARIABLE
from tirazh.pipeline.tracking.settings import tools_of

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

    from tirazh.jobs.cluster.submit import Submission, SubmittedJob

_JOB_ID = re.compile(r"(tirazh-|raysubmit_)[A-Za-z0-9_-]+")


def submit(options: argparse.Namespace) -> int:
    """Run `tirazh submit`."""
    from tirazh.jobs.cluster.submit import submit_to

    job = _job_of_file(options)
    if "://" not in job.spec.output and not options.quiet:
        console.warn(f"{job.spec.output} is a local path: it must be on a disk that all machines of the cluster share")
    client = _connect(options)
    return _submitted(client, job, submit_to(client, job), options)


def resume(options: argparse.Namespace) -> int:
    """Run `tirazh resume`."""
    from tirazh.jobs.cluster.submit import job_to_resume, submit_to

    client = _connect(options)
    job = job_to_resume(client, options.id)
    notifying.announce_submission(job.notify, kind=job.spec.kind, output=job.spec.output)
    return _submitted(client, job, submit_to(client, job), options)


def status(options: argparse.Namespace) -> int:
    """Run `tirazh status`: of a job, of all jobs, or of an output directory. The exit code is 1 for a failed job."""
    if options.id is not None and _is_output(options.id):
        return show_output_status(options)
    if options.max_age is not None:
        raise RequestError("--max-age is for the status of an output directory: tirazh status OUTPUT --max-age 26h")
    if options.endpoint_url is not None:
        raise RequestError("--endpoint-url is for the status of an output directory; the cluster is at --address")
    if options.id is None:
        return _status_of_all(options)
    from tirazh.jobs.cluster.facts import job_facts, show_status
    from tirazh.jobs.cluster.job_server import job_info, job_logs, known_jobs

    client = _connect(options)
    with known_jobs(client):
        info = job_info(client, options.id)
        log = job_logs(client, options.id)
    show_status(job_facts(info, log), as_json=options.json, quiet=options.quiet)
    return 1 if info["status"] == "FAILED" else 0


def logs(options: argparse.Namespace) -> int:
    """Run `tirazh logs`."""
    from tirazh.jobs.cluster.following import follow
    from tirazh.jobs.cluster.job_log import text_of
    from tirazh.jobs.cluster.job_server import job_logs, known_jobs

    client = _connect(options)
    with known_jobs(client):
        if options.follow:
            return follow(client, options.id, console.write)
        console.write(text_of(job_logs(client, options.id)))
    return 0


def stop(options: argparse.Namespace) -> int:
    """Run `tirazh stop`."""
    from tirazh.jobs.cluster.facts import show_stopped
    from tirazh.jobs.cluster.job_server import FINISHED, job_info, job_logs, known_jobs, stop_job

    client = _connect(options)
    with known_jobs(client):
        before = job_info(client, options.id)
        info = before if before["status"] in FINISHED else stop_job(client, options.id)
        log = job_logs(client, options.id)
    show_stopped(info, log, was_running=info is not before, as_json=options.json, quiet=options.quiet)
    return 0


def _job_of_file(options: argparse.Namespace) -> SubmittedJob:
    """The job of the file, with its `runtime_env` and `--image`. Everything that needs no cluster is checked."""
    from tirazh.jobs.cluster.runtime_env import read_runtime_env
    from tirazh.jobs.cluster.submit import job_of_spec

    file = read_job_file(options.job, options.variables)
    file.variables.refuse_unused(file.used)
    output = file.values.get("output")
    notifying.announce_submission(file.notify, place=file.place("notify"), kind=file.kind, output=output)
    runtime_env = read_runtime_env(
        file.runtime_env, image=options.image, place=file.place("runtime_env"), directory=str(Path(options.job).parent)
    )
    if file.track is not None:
        tools = ",".join(tools_of(file.track, place=file.place("track")))
        runtime_env = {**runtime_env, "env_vars": {TRACK_VARIABLE: tools, **runtime_env.get("env_vars", {})}}
    return job_of_spec(any_spec_of(file), runtime_env, notify=file.notify, job_file=os.path.abspath(options.job))


def _submitted(
    client: JobSubmissionClient, job: SubmittedJob, submission: Submission, options: argparse.Namespace
) -> int:
    """Print the job, and follow it. Without --follow, wait until the job has checked the cluster."""
    from tirazh.jobs.cluster.facts import show_submitted, tell
    from tirazh.jobs.cluster.following import follow_and_resubmit, wait_for_checks

    show_submitted(submission, options.address, as_json=options.json, quiet=options.quiet)
    if not options.follow:
        return wait_for_checks(client, submission.job_id) or 0
    return follow_and_resubmit(client, job, submission, address=options.address, write=console.write, tell=tell)


def _status_of_all(options: argparse.Namespace) -> int:
    from concurrent.futures import ThreadPoolExecutor

    from tirazh.jobs.cluster.facts import job_facts, show_jobs
    from tirazh.jobs.cluster.job_server import all_jobs, job_logs
    from tirazh.jobs.cluster.submit import JOB_KEY

    client = _connect(options)
    jobs = [info for info in all_jobs(client) if JOB_KEY in info["metadata"]]
    jobs.sort(key=lambda info: info["start_time"], reverse=True)
    with ThreadPoolExecutor(8) as threads:
        texts = list(threads.map(lambda info: job_logs(client, info["id"]), jobs))
    facts = [job_facts(info, log) for info, log in zip(jobs, texts, strict=True)]
    show_jobs(facts, as_json=options.json, quiet=options.quiet)
    return 0


def _is_output(name: str) -> bool:
    """Whether `status` is asked about an output: a URI, a path, or an existing directory; else it is a job's id."""
    return "/" in name or name in (".", "..") or (not _JOB_ID.fullmatch(name) and os.path.isdir(name))


def _connect(options: argparse.Namespace) -> JobSubmissionClient:
    from tirazh.jobs.cluster.job_server import connect

    return connect(options.address)
