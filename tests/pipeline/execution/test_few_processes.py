"""Ray on this machine starts without the processes that a job there does not need; other sessions keep them."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import ray

from tests.conftest import REPOSITORY
from tirazh.pipeline.execution import few_processes
from tirazh.pipeline.execution.few_processes import few_processes as starting_few

NEEDLESS = ("dashboard.py", "monitor.py", "log_monitor.py", "ray::_StatsActor", "ray::_AutoscalingCoordinatorActor")
# Runs a graph of Ray Data in a Ray of tirazh's own, and prints its rows, then the processes of Ray.
RUN = """
import os, psutil, ray
from tirazh.pipeline.execution.data_settings import building, data_settings
from tirazh.pipeline.execution.ray_session import ray_cluster
with ray_cluster(None, extra_cpus=1), data_settings():
    with building():
        graph = ray.data.range(10).map_batches(lambda rows: rows)
    print(sorted(row["id"] for row in graph.iter_rows()))
    words = [word for child in psutil.Process().children(recursive=True) for word in child.cmdline()]
    print(*(os.path.basename(word) for word in words if word.endswith(".py") or word.startswith("ray::")))
"""


@pytest.mark.ray
def test_a_session_of_tirazh_has_few_processes_and_runs_ray_data() -> None:
    done = subprocess.run([sys.executable, "-c", RUN], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows, found = done.stdout.splitlines()[-2:]
    assert rows == str(list(range(10)))
    assert "ray::DashboardAgent" in found.split()  # Prometheus reads the metrics of a job there
    assert not set(NEEDLESS) & set(found.split())


def test_afterwards_ray_starts_as_before() -> None:
    parts: list[Any] = [ray._private.parameter, ray._private.node.Node, ray._private.utils]
    before = [dict(vars(part)) for part in parts]
    with starting_few():
        assert [dict(vars(part)) for part in parts] != before
    assert [dict(vars(part)) for part in parts] == before


def test_a_user_who_sends_usage_statistics_keeps_the_server_that_sends_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    server = ray._private.node.Node.start_api_server
    with starting_few():
        assert ray._private.node.Node.start_api_server is server


def test_without_a_package_of_the_agent_ray_decides_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(few_processes, "find_spec", lambda name: None)
    monkeypatch.setattr(ray._private.utils, "get_dashboard_dependency_error", lambda: ImportError("aiohttp"))
    with starting_few():
        assert str(ray._private.utils.get_dashboard_dependency_error()) == "aiohttp"
