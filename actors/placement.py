"""Placement groups: the resources of all ranks of a replica, reserved together or not at all.

Ray 2.60 frees a placement group whose owner was killed only when the whole job ends. Therefore
groups have names, by which a restarted owner, or the end of the run, finds and removes them.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Mapping

import ray
from ray._private import ray_constants
from ray._private.state import state
from ray.experimental import internal_kv
from ray.util.placement_group import (
    PlacementGroup,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)

from tirazh.actors.messages import ReplicaConfig
from tirazh.errors import ReplicaError, RequestError

_count = itertools.count()
# How long to wait for machines that are just joining a cluster before a replica counts as
# impossible.
_JOIN_S = 20.0
_POLL_S = 1.0


def reserve(config: ReplicaConfig) -> PlacementGroup:
    """Request one bundle per rank; return at once, before they are reserved (see `wait_for`)."""
    owner = ray.get_runtime_context().get_actor_id() or os.getpid()
    name = f"{group_prefix(config.run_id)}{owner}-{next(_count)}"
    # A restarted actor keeps its id and counts from 0 again, so a group of this name is left from
    # before the restart.
    _remove_named(name)
    return placement_group([bundle(config)] * config.tensor_parallel, strategy=_strategy(config), name=name)


def refuse_impossible(config: ReplicaConfig) -> None:
    """Raise RequestError when the cluster can never hold a single replica.

    A cluster that may still grow is accepted, and machines that are just joining are waited for.
    How far a cluster may grow is what its autoscaler has reported to Ray. An older autoscaler
    reports no limit; then the test is whether it starts machines once a replica is requested.
    """
    if describe_shortage(config, _largest(ray.cluster_resources())) is None:
        return
    group, deadline = reserve(config), time.monotonic() + _JOIN_S
    try:
        while not group.wait(timeout_seconds=_POLL_S):
            shortage = describe_shortage(config, _largest(ray.cluster_resources()))
            status = internal_kv._internal_kv_get(ray_constants.DEBUG_AUTOSCALING_STATUS)
            if shortage is None or is_growing(status):
                return
            if time.monotonic() > deadline:
                raise RequestError(shortage)
    finally:
        remove_placement_group(group)


def wait_for(group: PlacementGroup, config: ReplicaConfig) -> None:
    """Wait until a group is reserved. Raises ReplicaError after `start_timeout_s`, which says what
    is missing."""
    if group.wait(timeout_seconds=config.start_timeout_s):
        return
    reason = describe_shortage(config, ray.cluster_resources())
    if reason is None:
        free = {name: ray.available_resources().get(name, 0) for name in bundle(config)}
        reason = f"a replica needs {amounts(_needed(config))}, but only {amounts(free)} were free"
    raise ReplicaError(f"the replica could not start within {config.start_timeout_s:g} s: {reason}")


def release_leftovers(run_id: str = "") -> None:
    """Free the resources that replicas of this run still hold, and end their ranks. Call it when
    the run is over. Replicas of other runs in the same Ray session are left alone."""
    prefix = group_prefix(run_id)
    for row in placement_group_table().values():
        if row["name"].startswith(prefix) and row["state"] != "REMOVED":
            _remove_named(row["name"])


def group_prefix(run_id: str = "") -> str:
    """Return how the names of a run's placement groups begin. Without a run id, they are the groups
    of this driver."""
    return f"tirazh-{run_id or ray.get_runtime_context().get_job_id()}-"


def is_growing(status: bytes | None) -> bool:
    """Whether an older autoscaler, which reports no limit, is starting machines according to its
    `status`."""
    report = json.loads(status or b"{}").get("autoscaler_report") or {}
    return bool(report.get("pending_nodes") or report.get("pending_launches"))


def bundle(config: ReplicaConfig) -> dict[str, float]:
    """Return the resources that one rank takes, by Ray's names."""
    gpu = {"GPU": 1.0} if config.device == "cuda" else {}
    return {"CPU": config.cpus_per_rank} | gpu


def describe_shortage(config: ReplicaConfig, total: Mapping[str, float]) -> str | None:
    """Return a sentence when a cluster of `total` resources can never hold the replica; None when
    it may."""
    needed = _needed(config)
    if all(total.get(name, 0) >= amount for name, amount in needed.items()):
        return None
    ranks = f"{config.tensor_parallel} rank" + ("s" if config.tensor_parallel > 1 else "")
    has = {name: total.get(name, 0) for name in needed}
    return f"a replica of {ranks} needs {amounts(needed)}, but the cluster has {amounts(has)}"


def _largest(now: Mapping[str, float]) -> dict[str, float]:
    """Return the resources that the cluster has, or may grow to where its autoscaler has reported
    that."""
    limits = state.get_max_resources_from_cluster_config() or {}
    return {name: max(now.get(name, 0), limits.get(name, 0)) for name in {*now, *limits}}


def _needed(config: ReplicaConfig) -> dict[str, float]:
    return {name: amount * config.tensor_parallel for name, amount in bundle(config).items()}


def _strategy(config: ReplicaConfig) -> str:
    """Require one node for all ranks if any node is large enough: shared memory and NVLink do not
    cross nodes."""
    fits = any(
        node["Alive"] and all(node["Resources"].get(name, 0) >= amount for name, amount in _needed(config).items())
        for node in ray.nodes()
    )
    return "STRICT_PACK" if fits else "PACK"


def _remove_named(name: str) -> None:
    try:
        remove_placement_group(get_placement_group(name))
    except ValueError:  # there is no group of this name
        return


def amounts(resources: Mapping[str, float]) -> str:
    """Return resources in words, such as `2 CPU and 1 GPU`."""
    return " and ".join(f"{amount:g} {name}" for name, amount in resources.items())
