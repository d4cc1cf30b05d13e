"""What the workers of a Ray job import: never a module from the directory in which the command was started.

Ray 2.60 puts the driver's working directory first on the search path of every worker. A file json.py or a directory
torch/ of somebody's project would be imported there instead of the real one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ray.job_config import JobConfig

import tirazh

_SAFE_PATH = "PYTHONSAFEPATH"


class _OwnSearchPath(JobConfig):  # type: ignore[misc]
    """Ray adds the working directory unless the job brings one of its own."""

    def _runtime_env_has_working_dir(self) -> bool:
        return True


def job_config() -> JobConfig:
    """A Ray job whose workers find the tirazh of this process, and nothing else that they would not find anyway."""
    package = Path(tirazh.__file__).resolve().parent.parent
    is_installed = "site-packages" in package.parts or "dist-packages" in package.parts
    return _OwnSearchPath(_py_driver_sys_path=[] if is_installed else [str(package)])


@contextmanager
def safe_search_path() -> Iterator[None]:
    """Processes that are started inside the block, and theirs, do not search the working directory for modules."""
    before = os.environ.get(_SAFE_PATH)
    os.environ[_SAFE_PATH] = "1"  # since Python 3.11
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_SAFE_PATH, None)
        else:
            os.environ[_SAFE_PATH] = before
