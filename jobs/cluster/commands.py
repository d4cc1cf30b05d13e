"""The commands for jobs on a cluster: submit, status, logs, stop and resume."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tirazh.jobs import console
from tirazh.jobs.job_files.job_file import spec_from_file
from tirazh.jobs.outputs.output_status import is_output_name, show_output_status

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

    from tirazh.jobs.cluster.submit import Submission


def submit(options: argparse.Namespace) -> int:
    """Run `tirazh submit`."""
    from tirazh.jobs.cluster.submit import submit as submit_spec

    spec = spec_from_file(options.job, options.variables)
    if "://" not in spec.output and not options.quiet:
        console.warn(f"{spec.output} is a local path: it must be on a disk that all machines of the cluster share")
    return _submitted(submit_spec(spec, options.address), options)


def resume(options: argparse.Namespace) -> int:
    """Run `tirazh resume`."""
    from tirazh.jobs.cluster.submit import resume as resume_job

    return _submitted(resume_job(options.id, options.address), options)


def status(options: argparse.Namespace) -> int:
    """Run `tirazh status`. The exit code is 1 for a failed job."""
    if is_output_name(options.id):
        return show_output_status(options)
    from tirazh.jobs.cluster.job_server import job_info, job_logs, known_jobs

    client = _connect(options)
    with known_jobs(client):
        info = job_info(client, options.id)
        log = job_logs(client, options.id)
    console.show_status(info, log, as_json=options.json, quiet=options.quiet)
    return 1 if info["status"] == "FAILED" else 0


def logs(options: argparse.Namespace) -> int:
    """Run `tirazh logs`."""
    from tirazh.jobs.cluster.following import follow
    from tirazh.jobs.cluster.job_server import job_logs, known_jobs

    client = _connect(options)
    with known_jobs(client):
        if options.follow:
            return follow(client, options.id, console.write)
        console.write(job_logs(client, options.id))
    return 0


def stop(options: argparse.Namespace) -> int:
    """Run `tirazh stop`."""
    from tirazh.jobs.cluster.job_server import FINISHED, job_info, known_jobs, stop_job

    client = _connect(options)
    with known_jobs(client):
        before = job_info(client, options.id)
        info = before if before["status"] in FINISHED else stop_job(client, options.id)
    console.show_stopped(info, was_running=info is not before, as_json=options.json, quiet=options.quiet)
    return 0


def _submitted(submission: Submission, options: argparse.Namespace) -> int:
    from tirazh.jobs.cluster.following import follow

    console.show_submitted(submission, options.address, as_json=options.json, quiet=options.quiet)
    if not options.follow:
        return 0
    return follow(_connect(options), submission.job_id, console.write, is_known=True)


def _connect(options: argparse.Namespace) -> JobSubmissionClient:
    from tirazh.jobs.cluster.job_server import connect

    return connect(options.address)
