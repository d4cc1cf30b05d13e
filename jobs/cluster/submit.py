"""Submits a job to a Ray cluster, and resumes it.

The working directory sent to the cluster holds only the package `tirazh`, as it is installed here,
and `job.yaml`; no credentials and none of the user's files.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tirazh.errors import JobError, RequestError
from tirazh.jobs.cluster.job_server import UnknownJobError, connect, job_info, known_jobs, running_like
from tirazh.jobs.job_files.steps_file import STEPS, build_steps_spec
from tirazh.jobs.settings import build_spec
from tirazh.pipeline.crossing.load import send_small_lists
from tirazh.pipeline.spec import EMBEDDED_MODEL, FilterSpec, GenerateSpec, JobSpec, Step, StepsSpec
from tirazh.pipeline.storage.filesystem import Storage
from tirazh.pipeline.storage.secrets import redact

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

JOB_KEY = "tirazh_job"
PACKAGE = Path(__file__).parent.parent.parent
_PATH_FIELDS = ("output", "model", "tokenizer", "deepspeed_config", "examples")
# Seconds between SIGTERM and SIGKILL for a job that is stopped: enough to close its replicas.
_STOP_WAIT_S = "15"
_AGENT_TIMEOUT_S = 60.0
# Submitters that choose the same id at the same time try again this often.
_ATTEMPTS = 5


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A job on the cluster. `was_running` is true if this run was submitted before, and not by this call.

    `other_settings` names the settings that the running job has with other values.
    """

    job_id: str
    was_running: bool
    other_settings: tuple[str, ...] = ()


def submit(spec: JobSpec | StepsSpec, address: str | None) -> Submission:
    """Start the job on the cluster, or find the run of it that is already there."""
    return _submit_to(connect(address), with_absolute_paths(spec))


def resume(job_id: str, address: str | None) -> Submission:
    """Submit a job again with the same settings, or find its current run; finished parts are kept."""
    client = connect(address)
    with known_jobs(client):
        info = job_info(client, job_id)
    return _submit_to(client, submitted_spec(info))


def submitted_spec(info: dict[str, Any]) -> JobSpec | StepsSpec:
    """Return the spec that a job was submitted with.

    Raises RequestError when another program submitted it.
    """
    text = info["metadata"].get(JOB_KEY)
    if text is None:
        raise RequestError(f"{info['id']} was not submitted by tirazh, so it cannot be resumed")
    values = json.loads(text)
    kind = values.pop("kind")
    return build_steps_spec(values) if kind == STEPS else build_spec(kind, values)


def job_name(spec: JobSpec | StepsSpec) -> str:
    """Return `tirazh-<name of the output>-<hash>`; the same job with the same output has the same name."""
    last = spec.output.rstrip("/").rsplit("/", 1)[-1]
    slug = re.sub(r"[^a-z0-9]+", "-", last.lower()).strip("-")[:40] or "job"
    digest = hashlib.sha256(f"{spec.fingerprint()} {spec.output}".encode()).hexdigest()[:6]
    return f"tirazh-{slug}-{digest}"


def with_absolute_paths(spec: JobSpec | StepsSpec) -> JobSpec | StepsSpec:
    """Return the spec with absolute local paths, which mean the same file on a shared disk of the cluster.

    Short lists of `vary` in local files become part of the spec.
    """
    if isinstance(spec, StepsSpec):
        steps = tuple(Step(step.name, _step_with_absolute_paths(step.spec)) for step in spec.steps)
        return replace(spec, output=_absolute(spec.output), steps=steps)
    return _job_with_absolute_paths(spec)


def _step_with_absolute_paths(spec: JobSpec | FilterSpec) -> JobSpec | FilterSpec:
    if isinstance(spec, JobSpec):
        return _job_with_absolute_paths(spec)
    return replace(spec, against=tuple(map(_absolute, spec.against)))


def _job_with_absolute_paths(spec: JobSpec) -> JobSpec:
    changes: dict[str, Any] = {"input": tuple(_absolute(path) for path in spec.input)}
    if isinstance(spec, GenerateSpec) and spec.vary is not None:
        changes["vary"] = send_small_lists(spec.vary, Storage(spec.endpoint_url))
    for name in _PATH_FIELDS:
        value = getattr(spec, name, None)
        if value is not None and value != EMBEDDED_MODEL:
            changes[name] = _absolute(value)
    return replace(spec, **changes)


def job_text(spec: JobSpec | StepsSpec) -> dict[str, Any]:
    """Return the settings that have a value, without `address`: the receiving cluster runs the job."""
    settings = {name: value for name, value in spec.to_dict().items() if value is not None}
    settings.pop("address", None)
    return settings


def write_working_dir(spec: JobSpec | StepsSpec, directory: Path) -> None:
    """Write the package and job.yaml to `directory`.

    The embedded weights are included only if the job uses them.
    """
    ignored = ["__pycache__", "*.pyc", ".*"]
    specs = [spec] if isinstance(spec, JobSpec) else spec.model_steps
    if all(each.model != EMBEDDED_MODEL for each in specs):
        ignored.append("embedded")
    # In a source tree the folders of the package are symbolic links: copytree follows them and
    # copies the files.
    shutil.copytree(PACKAGE, directory / PACKAGE.name, ignore=shutil.ignore_patterns(*ignored))
    text = yaml.safe_dump(job_text(spec), allow_unicode=True, sort_keys=False)
    (directory / "job.yaml").write_text(text, encoding="utf-8")


def _submit_to(client: JobSubmissionClient, spec: JobSpec | StepsSpec) -> Submission:
    name = job_name(spec)
    for _ in range(_ATTEMPTS):
        running, number = running_like(client, name)
        if running:
            return Submission(job_id=running, was_running=True, other_settings=_other_settings(client, running, spec))
        job_id = _start(client, spec, name if number == 1 else f"{name}-{number}")
        if job_id is not None:
            return Submission(job_id=job_id, was_running=False)
    raise JobError(f"the cluster refused {_ATTEMPTS} ids for {name}, as each exists already; submit the job again")


def _start(client: JobSubmissionClient, spec: JobSpec | StepsSpec, job_id: str) -> str | None:
    """Submit the job, and return its id. None: another submitter has just used the id."""
    with tempfile.TemporaryDirectory(prefix="tirazh-submit-") as directory:
        write_working_dir(spec, Path(directory))
        return _send(
            client,
            # `python -m tirazh` starts in the working directory, so it runs the package sent along
            # and not one that may be installed on the cluster.
            entrypoint="python -m tirazh run job.yaml --address auto",
            submission_id=job_id,
            runtime_env={
                "working_dir": directory,
                "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": _STOP_WAIT_S, "PYTHONUNBUFFERED": "1"},
            },
            # `tirazh resume` reads the settings from here: the working directory may be deleted.
            metadata={JOB_KEY: json.dumps(job_text(spec), ensure_ascii=False)},
        )


def _send(client: JobSubmissionClient, **job: Any) -> str | None:
    """Submit, and retry while a head node that has just started has no job agent yet."""
    until = time.monotonic() + _AGENT_TIMEOUT_S
    while True:
        try:
            return str(client.submit_job(**job))
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            # Ray adds an id only if it is new, so of two submitters at once exactly one gets this answer.
            if "already exists" in reason:
                return None
            if "No available agent" not in reason or time.monotonic() > until:
                raise JobError(f"the cluster did not accept the job: {redact(reason)[:300]}") from None
            time.sleep(1.0)


def _other_settings(client: JobSubmissionClient, job_id: str, spec: JobSpec | StepsSpec) -> tuple[str, ...]:
    """Return the names of the settings in which a running job differs from `spec`: it keeps its own until it ends."""
    try:
        submitted = json.loads(job_info(client, job_id)["metadata"][JOB_KEY])
    except (KeyError, ValueError, UnknownJobError):
        return ()
    wanted = json.loads(json.dumps(job_text(spec)))
    return tuple(sorted(name for name in wanted.keys() | submitted.keys() if wanted.get(name) != submitted.get(name)))


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).expanduser().absolute())
