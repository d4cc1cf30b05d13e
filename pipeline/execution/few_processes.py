"""Starts Ray on this machine without those of its processes that a job on one machine has no use for.

Of Ray 2.60's own processes these take about 2 CPU seconds at each start: the server of the dashboard, which without one
only sends usage statistics; the monitor of the autoscaler; and the log monitor, which sends the lines of workers to the
driver. Here there is no dashboard, nothing to scale, and nothing is printed by workers. The agent of the node remains:
Prometheus reads a job's metrics from it. Two actors of Ray Data take 2 CPU seconds more (`few_actors`).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any
from uuid import uuid4

import ray

_STATISTICS = "RAY_USAGE_STATS_ENABLED"
# The packages of `ray[default]`, which the agent of a node imports.
_OF_THE_AGENT = ("aiohttp", "aiohttp_cors", "grpc", "opencensus", "opentelemetry", "prometheus_client", "pydantic")


@contextmanager
def few_processes() -> Iterator[None]:
    """Inside the block, a node that `ray.init` starts has the processes that a job needs, and no others.

    `ray.init` has no option for this, though the node that it makes has.
    """
    parameters: Any = ray._private.parameter
    tools: Any = ray._private.utils
    node: Any = ray._private.node.Node
    before, start_server, find_error = parameters.RayParams, node.start_api_server, tools.get_dashboard_dependency_error

    def make_parameters(*arguments: Any, **options: Any) -> Any:
        return before(*arguments, **options | {"no_monitor": True, "include_log_monitor": False})

    def start_no_server(node: Any, **_: Any) -> None:
        node._webui_url = ""

    def find_error_quickly() -> ImportError | None:
        # Ray imports the packages in the driver, to see whether they are there.
        error: ImportError | None = None if all(map(find_spec, _OF_THE_AGENT)) else find_error()
        return error

    parameters.RayParams, tools.get_dashboard_dependency_error = make_parameters, find_error_quickly
    if os.environ.get(_STATISTICS) == "0":
        node.start_api_server = start_no_server
    try:
        yield
    finally:
        parameters.RayParams, tools.get_dashboard_dependency_error = before, find_error
        node.start_api_server = start_server


@functools.cache
def few_actors(is_own_session: Callable[[], bool]) -> None:
    """Let Ray Data do without two of its actors from now on, wherever Ray runs on this machine for tirazh alone.

    One collects figures for the dashboard, which such a Ray has not. The other divides a cluster that grows among its
    users; this machine is what it is, and Ray itself lets no more tasks run than it has CPUs for.
    """
    from ray.data._internal import stats
    from ray.data._internal.cluster_autoscaler import rate_based_cluster_autoscaler as autoscaler

    stats_actor, make_id = stats.get_or_create_stats_actor, stats._StatsManager.gen_dataset_id_from_stats_actor
    coordinator = autoscaler.DefaultAutoscalingCoordinator
    stats.get_or_create_stats_actor = lambda: _NoActor() if is_own_session() else stats_actor()
    stats._StatsManager.gen_dataset_id_from_stats_actor = staticmethod(
        lambda: uuid4().hex if is_own_session() else make_id()
    )
    autoscaler.DefaultAutoscalingCoordinator = lambda *arguments, **options: (
        _WholeMachine() if is_own_session() else coordinator(*arguments, **options)
    )


class _NoActor:
    """Stands in for an actor whose answers are not read: every call is dropped."""

    def __getattr__(self, name: str) -> _NoActor:
        return self

    def remote(self, *_: Any, **__: Any) -> None:
        """Drop the call."""


class _WholeMachine:
    """Stands in for the coordinator of a cluster: a dataset may use all of this machine."""

    def __init__(self) -> None:
        self._resources: dict[str, dict[str, float]] = {}

    def request_resources(self, *_: Any, **__: Any) -> None:
        """Nothing grows here."""

    def cancel_request(self) -> None:
        """Nothing was reserved."""

    def get_reserved_resources(self) -> dict[str, dict[str, float]]:
        """The resources of every node by its id; there is one node."""
        if not self._resources:
            self._resources = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
        return self._resources
