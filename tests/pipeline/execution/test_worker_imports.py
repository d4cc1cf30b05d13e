"""The search path of Ray's workers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ray.core.generated.common_pb2 import JobConfig as JobConfigMessage

from tests.conftest import REPOSITORY
from tirazh.pipeline.execution.worker_imports import job_config, safe_search_path


def test_workers_search_the_package_and_not_the_working_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    config = job_config()
    assert config._runtime_env_has_working_dir()  # Ray adds the working directory only without one
    message = JobConfigMessage.FromString(config._serialize())
    assert list(message.py_driver_sys_path) == [str(REPOSITORY)]


def test_the_variable_of_python_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    with safe_search_path():
        assert os.environ["PYTHONSAFEPATH"] == "1"
    assert "PYTHONSAFEPATH" not in os.environ
