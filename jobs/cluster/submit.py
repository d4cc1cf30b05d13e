"""Submits a job to a Ray cluster, and resumes it.

The working directory sent to the cluster holds only what `working_dir.py` writes: no credentials and none of the
user's files.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tirazh.errors import JobError, RequestError
from tirazh.jobs.cluster.job_server import (
    STOP_VARIABLE,
    NoAnswerError,
    UnknownJobError,
    connect,
    job_info,
    known_jobs,
    last_line,
    running_like,
)
from tirazh.jobs.cluster.records import JobRecord, find_record, keep_record
from tirazh.jobs.cluster.runtime_env import in_image, read_runtime_env, without_values
from tirazh.jobs.cluster.start import JOB_VARIABLE, NEEDS_VARIABLE, NOTIFY_FILE, NOTIFY_VARIABLE
from tirazh.jobs.cluster.working_dir import AnySpec, job_text, needs_text, with_absolute_paths, write_working_dir
from tirazh.jobs.job_files.job_file import read_job_file
from tirazh.jobs.job_files.steps_file import STEPS, build_steps_spec
from tirazh.jobs.settings import FINETUNE, build_finetune_spec, build_spec
from tirazh.pipeline.finetune.spec import FinetuneSpec
from tirazh.pipeline.notify.settings import public_section
from tirazh.pipeline.storage.errors import show_uri

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

JOB_KEY = "tirazh_job"
# Seconds between SIGTERM and SIGKILL for a job that is stopped: enough to finish the parts that are nearly done
# (`tirazh.pipeline.execution.draining`) and to close its replicas.
STOP_WAIT_S = 60
# The same for a training: enough to finish a step, and to write a checkpoint of a large model to a shared disk.
TRAINING_STOP_WAIT_S = 900
_AGENT_TIMEOUT_S = 60.0
_BUSY_S = 60.0
# Submitters that choose the same id at the same time try again this often.
_ATTEMPTS = 5


@dataclass(frozen=True, kw_only=True)
class SubmittedJob:
    """What is submitted: the settings with absolute paths, the user's `runtime_env`, and the path of the job file.

    `notify` is that section of the job file. It may hold secrets, as `runtime_env` may.
    """

    spec: AnySpec
    runtime_env: Mapping[str, Any] = field(default_factory=dict, repr=False)
    notify: Any = field(default=None, repr=False)
    job_file: str | None = None


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A job on the cluster. `was_running` is true if this run was submitted before, and not by this call.

    `other_settings` names the settings that the running job has with other values.
    """

    job_id: str
    was_running: bool
    other_settings: tuple[str, ...] = ()


def submit(job: SubmittedJob, address: str | None) -> Submission:
    """Start the job on the cluster, or find the run of it that is already there."""
    return submit_to(connect(address), job)


def job_of_spec(
    spec: AnySpec,
    runtime_env: Mapping[str, Any] | None = None,
    *,
    notify: Any = None,
    job_file: str | None = None,
) -> SubmittedJob:
    """Return the job to submit for a spec of this machine."""
    return SubmittedJob(spec=with_absolute_paths(spec), runtime_env=runtime_env or {}, notify=notify, job_file=job_file)


def job_to_resume(client: JobSubmissionClient, job_id: str) -> SubmittedJob:
    """Return a job that was submitted, from the server, or from the record of this machine where it has forgotten it.

    Raises RequestError when the job is unknown, or another program submitted it.
    """
    record = find_record(job_id, show_uri(client.get_address()))
    try:
        info = job_info(client, job_id)
    except UnknownJobError:
        if record is not None:
            return _job_of_record(record)
        with known_jobs(client):
            raise
        raise
    return SubmittedJob(
        spec=submitted_spec(info),
        runtime_env=_users(info["runtime_env"]),
        notify=_notify_of(info, record),
        job_file=record.job_file if record else None,
    )


def _notify_of(info: dict[str, Any], record: JobRecord | None) -> Any:
    """The section `notify` of a job: from the server, or where it holds addresses from the job file on this machine."""
    text = info["runtime_env"].get("env_vars", {}).get(NOTIFY_VARIABLE)
    if text is not None:
        return json.loads(text)
    try:
        return read_job_file(record.job_file).notify if record is not None and record.job_file else None
    except RequestError:
        return None


def submitted_spec(info: dict[str, Any]) -> AnySpec:
    """Return the spec that a job was submitted with.

    Raises RequestError when another program submitted it.
    """
    text = info["metadata"].get(JOB_KEY)
    if text is None:
        raise RequestError(f"{info['id']} was not submitted by tirazh, so it cannot be resumed")
    return _spec(json.loads(text))


def job_name(spec: AnySpec) -> str:
    """Return `tirazh-<name of the output>-<hash>`; the same job with the same output has the same name."""
    last = spec.output.rstrip("/").rsplit("/", 1)[-1]
    slug = re.sub(r"[^a-z0-9]+", "-", last.lower()).strip("-")[:40] or "job"
    digest = hashlib.sha256(f"{spec.fingerprint()} {spec.output}".encode()).hexdigest()[:6]
    return f"tirazh-{slug}-{digest}"


def submit_to(client: JobSubmissionClient, job: SubmittedJob) -> Submission:
    """Start the job, or find its run, through a client that is connected.

    A head that is busy may miss a request; it is asked again for _BUSY_S seconds.
    """
    until = time.monotonic() + _BUSY_S
    while True:
        try:
            return _submit_once(client, job)
        except NoAnswerError:
            if time.monotonic() > until:
                raise
            time.sleep(1.0)


def _submit_once(client: JobSubmissionClient, job: SubmittedJob) -> Submission:
    name = job_name(job.spec)
    for _ in range(_ATTEMPTS):
        running, number = running_like(client, name)
        if running:
            others = _other_settings(client, running, job.spec)
            _remember(client, running, job)
            return Submission(job_id=running, was_running=True, other_settings=others)
        job_id = _start(client, job, name if number == 1 else f"{name}-{number}")
        if job_id is not None:
            _remember(client, job_id, job)
            return Submission(job_id=job_id, was_running=False)
    raise JobError(f"the cluster refused {_ATTEMPTS} ids for {name}, as each exists already; submit the job again")


def _start(client: JobSubmissionClient, job: SubmittedJob, job_id: str) -> str | None:
    """Submit the job, and return its id. None: another submitter has just used the id."""
    variables = {
        **job.runtime_env.get("env_vars", {}),
        STOP_VARIABLE: str(_stop_wait_s(job.spec)),
        "PYTHONUNBUFFERED": "1",
    }
    is_public = job.notify is not None and public_section(job.notify) is not None
    if is_public:
        variables[NOTIFY_VARIABLE] = json.dumps(job.notify)
    runtime_env = {**job.runtime_env, "env_vars": variables}
    with tempfile.TemporaryDirectory(prefix="tirazh-submit-") as directory:
        if in_image(job.runtime_env):  # Ray sends no working directory to a container
            if job.notify is not None and not is_public:
                raise RequestError(
                    "notify: a job in an image stands in Ray's description of the job, which must hold no address: set "
                    "a variable in the image, and give url: env:NAME"
                )
            settings = json.dumps(job_text(job.spec), ensure_ascii=False)
            variables |= {JOB_VARIABLE: settings, NEEDS_VARIABLE: needs_text(job.spec)}
        else:
            write_working_dir(job.spec, Path(directory))
            if job.notify is not None and not is_public:
                (Path(directory) / NOTIFY_FILE).write_text(json.dumps(job.notify), encoding="utf-8")
            runtime_env["working_dir"] = directory
        return _send(
            client,
            # `python -m` starts in the working directory, so it runs the package sent along and not one that may be
            # installed on the cluster.
            entrypoint=f"{job.runtime_env.get('py_executable', 'python')} -m tirazh.jobs.cluster.start {job_id}",
            submission_id=job_id,
            runtime_env=runtime_env,
            # `tirazh resume` reads the settings from here: the working directory may be deleted.
            metadata={JOB_KEY: json.dumps(job_text(job.spec), ensure_ascii=False)},
        )


def _send(client: JobSubmissionClient, **job: Any) -> str | None:
    """Submit, and retry while a head node that has just started has no job agent yet."""
    import requests

    until = time.monotonic() + _AGENT_TIMEOUT_S
    while True:
        try:
            return str(client.submit_job(**job))
        except (ConnectionError, requests.exceptions.RequestException) as error:
            raise NoAnswerError(f"no Ray job server answers: {_reason(error, job)}") from None
        except ValueError as error:  # Ray's check of runtime_env
            raise RequestError(f"Ray does not accept this runtime_env: {_reason(error, job)}") from None
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            # Ray adds an id only if it is new, so of two submitters at once exactly one gets this answer.
            if "already exists" in reason:
                return None
            if "No available agent" not in reason or time.monotonic() > until:
                raise JobError(f"the cluster did not accept the job: {_reason(error, job)}") from None
            time.sleep(1.0)


def _reason(error: Exception, job: dict[str, Any]) -> str:
    """Return the last line of an error, without the values of the user's variables."""
    text = last_line(error)
    for value in job["runtime_env"]["env_vars"].values():
        text = text.replace(value, "***") if len(value) >= 4 else text
    return text[:300]


def _other_settings(client: JobSubmissionClient, job_id: str, spec: AnySpec) -> tuple[str, ...]:
    """Return the names of the settings in which a running job differs from `spec`: it keeps its own until it ends."""
    try:
        submitted = json.loads(job_info(client, job_id)["metadata"][JOB_KEY])
    except (KeyError, ValueError, UnknownJobError):
        return ()
    wanted = json.loads(json.dumps(job_text(spec)))
    return tuple(sorted(name for name in wanted.keys() | submitted.keys() if wanted.get(name) != submitted.get(name)))


def _remember(client: JobSubmissionClient, job_id: str, job: SubmittedJob) -> None:
    record = JobRecord(
        id=job_id,
        address=show_uri(client.get_address()),
        job=job_text(job.spec),
        runtime_env=without_values(job.runtime_env),
        job_file=job.job_file,
    )
    keep_record(record)


def _job_of_record(record: JobRecord) -> SubmittedJob:
    """Return the job of a record, with what is secret from the job file. Raises RequestError if that is gone."""
    runtime_env, notify = dict(record.runtime_env), None
    names, values = runtime_env.get("env_vars", {}), {}
    try:
        file = read_job_file(record.job_file or "")
        values, notify = read_runtime_env(file.runtime_env).get("env_vars", {}), file.notify
    except RequestError:
        pass
    if missing := sorted(names.keys() - values.keys()):
        raise RequestError(
            f"the cluster has forgotten {record.id}, and the values of env_vars are kept nowhere else "
            f"({', '.join(missing)}): submit the job file again; finished parts are kept"
        )
    if names:
        runtime_env["env_vars"] = {name: values[name] for name in names}
    return SubmittedJob(spec=_spec(record.job), runtime_env=runtime_env, notify=notify, job_file=record.job_file)


def _users(runtime_env: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the user gave of a job's runtime_env, as the server returns it."""
    ours = ("working_dir", "_ray_commit", "_ray_release", "_inject_current_ray")
    users = {name: value for name, value in runtime_env.items() if name not in ours}
    not_theirs = (STOP_VARIABLE, "PYTHONUNBUFFERED", JOB_VARIABLE, NEEDS_VARIABLE, NOTIFY_VARIABLE)
    variables = {name: value for name, value in users.pop("env_vars", {}).items() if name not in not_theirs}
    return users | ({"env_vars": variables} if variables else {})


def _spec(settings: Mapping[str, Any]) -> AnySpec:
    values = dict(settings)
    kind = values.pop("kind")
    if kind == FINETUNE:
        return build_finetune_spec(values)
    return build_steps_spec(values) if kind == STEPS else build_spec(kind, values)


def _stop_wait_s(spec: AnySpec) -> int:
    return TRAINING_STOP_WAIT_S if isinstance(spec, FinetuneSpec) else STOP_WAIT_S
