"""What this machine remembers of the jobs that it submitted: one small file for each, without any secret.

A cluster forgets its jobs when its head is restarted. `tirazh resume ID` then takes the job from here.
"""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tirazh.jobs.progress import utc_text

KEPT_DAYS = 90
_NAME = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """A job submitted to the server at `address`. `job` are its settings, `job_file` is the path of its file.

    `submitted` is the time in UTC, such as "2026-11-23T01:30:00Z".

    `runtime_env` has the names of `env_vars`, with None for their values.
    """

    id: str
    address: str
    job: dict[str, Any]
    runtime_env: dict[str, Any] = field(default_factory=dict)
    job_file: str | None = None
    submitted: str = ""


def keep_record(record: JobRecord) -> None:
    """Write the record of a job, and remove those older than KEPT_DAYS. A disk that refuses it is no error."""
    now = utc_text()
    text = json.dumps(asdict(record) | {"submitted": now}, ensure_ascii=False, indent=2)
    try:
        directory = _directory()
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = directory / f"{record.id}.json"
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        part.write_text(text, encoding="utf-8")
        part.chmod(0o600)
        part.replace(path)
        for each in directory.iterdir():
            if each.stat().st_mtime < time.time() - KEPT_DAYS * 86_400:
                each.unlink()
    except OSError:
        return


def find_record(job_id: str, address: str) -> JobRecord | None:
    """Return the record of a job, or None if it was not submitted from here to this address.

    `address` is shown without credentials, as `show_uri` does. A damaged file counts as none.
    """
    if not _NAME.fullmatch(job_id):
        return None
    try:
        record = JobRecord(**json.loads((_directory() / f"{job_id}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return record if record.address == address else None


def _directory() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(state) / "tirazh" / "jobs"
