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
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tirazh.errors import JobError, RequestError
from tirazh.jobs.cluster import connect, job_info, running_like
from tirazh.jobs.settings import build_spec
from tirazh.pipeline.spec import EMBEDDED_MODEL, JobSpec

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

JOB_KEY = "tirazh_job"
PACKAGE = Path(__file__).parent.parent
_PATH_FIELDS = ("output", "model", "tokenizer", "deepspeed_config", "examples")
# Seconds between SIGTERM and SIGKILL for a job that is stopped: enough to close its replicas.
_STOP_WAIT_S = "15"
_AGENT_TIMEOUT_S = 60.0


def submit(spec: JobSpec, address: str | None) -> str:
    """Start the job on the cluster and return its id.

    Raises RequestError when it is already running there.
    """
    return _submit_to(connect(address), with_absolute_paths(spec))


def resume(job_id: str, address: str | None) -> str:
    """Submit a job again with the same settings; finished parts are kept.

    Returns the id of the new run.
    """
    client = connect(address)
    return _submit_to(client, submitted_spec(job_info(client, job_id)))


def submitted_spec(info: dict[str, Any]) -> JobSpec:
    """Return the spec that a job was submitted with.

    Raises RequestError when another program submitted it.
    """
    text = info["metadata"].get(JOB_KEY)
    if text is None:
        raise RequestError(f"{info['id']} was not submitted by tirazh, so it cannot be resumed")
    values = json.loads(text)
    return build_spec(values.pop("kind"), values)


def job_name(spec: JobSpec) -> str:
    """Return `tirazh-<name of the output>-<hash>`; the same job with the same output has the same name."""
    last = spec.output.rstrip("/").rsplit("/", 1)[-1]
    slug = re.sub(r"[^a-z0-9]+", "-", last.lower()).strip("-")[:40] or "job"
    digest = hashlib.sha256(f"{spec.fingerprint()} {spec.output}".encode()).hexdigest()[:6]
    return f"tirazh-{slug}-{digest}"


def with_absolute_paths(spec: JobSpec) -> JobSpec:
    """Return the spec with absolute local paths, which mean the same file on a shared disk of the cluster."""
    changes: dict[str, Any] = {"input": tuple(_absolute(path) for path in spec.input)}
    for name in _PATH_FIELDS:
        value = getattr(spec, name, None)
        if value is not None and value != EMBEDDED_MODEL:
            changes[name] = _absolute(value)
    return replace(spec, **changes)


def job_text(spec: JobSpec) -> dict[str, Any]:
    """Return the settings that have a value, without `address`: the receiving cluster runs the job."""
    settings = {name: value for name, value in spec.to_dict().items() if value is not None}
    settings.pop("address", None)
    return settings


def write_working_dir(spec: JobSpec, directory: Path) -> None:
    """Write the package and job.yaml to `directory`.

    The embedded weights are included only if the job uses them.
    """
    ignored = ["__pycache__", "*.pyc", ".*"]
    if spec.model != EMBEDDED_MODEL:
        ignored.append("embedded")
    # In a source tree the folders of the package are symbolic links: copytree follows them and
    # copies the files.
    shutil.copytree(PACKAGE, directory / PACKAGE.name, ignore=shutil.ignore_patterns(*ignored))
    text = yaml.safe_dump(job_text(spec), allow_unicode=True, sort_keys=False)
    (directory / "job.yaml").write_text(text, encoding="utf-8")


def _submit_to(client: JobSubmissionClient, spec: JobSpec) -> str:
    name = job_name(spec)
    running, number = running_like(client, name)
    if running:
        raise RequestError(f"this job is already running as {running}; `tirazh logs {running} --follow` shows its log")
    with tempfile.TemporaryDirectory(prefix="tirazh-submit-") as directory:
        write_working_dir(spec, Path(directory))
        return _send(
            client,
            # `python -m tirazh` starts in the working directory, so it runs the package sent along
            # and not one that may be installed on the cluster.
            entrypoint=f"python -m tirazh {spec.kind} --config job.yaml --address auto",
            submission_id=name if number == 1 else f"{name}-{number}",
            runtime_env={
                "working_dir": directory,
                "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": _STOP_WAIT_S, "PYTHONUNBUFFERED": "1"},
            },
            # `tirazh resume` reads the settings from here: the working directory may be deleted.
            metadata={JOB_KEY: json.dumps(job_text(spec), ensure_ascii=False)},
        )


def _send(client: JobSubmissionClient, **job: Any) -> str:
    """Submit, and retry while a head node that has just started has no job agent yet."""
    until = time.monotonic() + _AGENT_TIMEOUT_S
    while True:
        try:
            return str(client.submit_job(**job))
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            if "No available agent" not in reason or time.monotonic() > until:
                raise JobError(f"the cluster did not accept the job: {reason[:300]}") from None
            time.sleep(1.0)


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).expanduser().absolute())
