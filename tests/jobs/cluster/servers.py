"""Job servers in this process: they keep jobs, and refuse an id that was used, as Ray does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tirazh.jobs.cluster.submit import Submission, SubmittedJob, job_of_spec, submit
from tirazh.pipeline.spec import GenerateSpec


class FakeJob:
    """A job as Ray's client returns it."""

    def __init__(self, submission_id: str | None, status: str) -> None:
        self.submission_id, self.status = submission_id, status
        self.message, self.start_time, self.end_time = "", 1000, 2000
        self.driver_exit_code: int | None = 0
        self.metadata: dict[str, str] = {}
        self.runtime_env: dict[str, Any] = {}


class FakeClient:
    """Ray's job client, with a log that grows with each request; None stands for a failed request."""

    def __init__(self, jobs: list[FakeJob], logs: list[str | None] | None = None) -> None:
        self.jobs, self.logs = jobs, logs or []

    def get_address(self) -> str:
        return "http://head:8265"

    def list_jobs(self) -> list[FakeJob]:
        return self.jobs

    def get_job_info(self, job_id: str) -> FakeJob:
        if not self.logs[1:]:
            self.jobs[0].status = "SUCCEEDED"
        return self.jobs[0]

    def get_job_logs(self, job_id: str) -> str:
        text = self.logs.pop(0)
        if text is None:
            raise ConnectionError
        return text


class Server:
    """Ray's job client in front of a server that keeps jobs, and refuses an id that was used, as Ray does."""

    def __init__(self) -> None:
        self.jobs: dict[str, FakeJob] = {}
        self.log = "a line\n"
        self.before_submit: Callable[[str], None] = lambda job_id: None

    def get_address(self) -> str:
        return "http://head:8265"

    def list_jobs(self) -> list[FakeJob]:
        return list(self.jobs.values())

    def get_job_info(self, job_id: str) -> FakeJob:
        if job_id not in self.jobs:
            raise RuntimeError(f"Request failed with status code 404: Job {job_id} does not exist.")
        return self.jobs[job_id]

    def get_job_logs(self, job_id: str) -> str:
        return self.log if self.get_job_info(job_id) else ""

    def submit_job(
        self, *, submission_id: str, metadata: dict[str, str], runtime_env: dict[str, Any], entrypoint: str
    ) -> str:
        self.before_submit(submission_id)
        if submission_id in self.jobs:
            raise RuntimeError(
                f"Request failed with status code 500: Traceback {'.' * 500} ValueError: "
                f"Job with submission_id {submission_id} already exists. Please use a different submission_id."
            )
        self.jobs[submission_id] = FakeJob(submission_id, "PENDING")
        self.jobs[submission_id].metadata = metadata
        self.jobs[submission_id].runtime_env = runtime_env
        self.entrypoint = entrypoint
        return submission_id


def spec(**values: Any) -> GenerateSpec:
    """A job."""
    return GenerateSpec(**({"input": ("s3://in/",), "output": "s3://night/2026-11-23 Новости/"} | values))


def submitted(given: GenerateSpec | None = None, **runtime_env: Any) -> Submission:
    """Submit a job."""
    return submit(job_to_submit(given, **runtime_env), None)


def job_to_submit(given: GenerateSpec | None = None, **runtime_env: Any) -> SubmittedJob:
    """What `submit` makes of a job."""
    return job_of_spec(given or spec(), runtime_env)
