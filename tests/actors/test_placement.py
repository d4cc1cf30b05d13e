"""Replicas that a cluster can never hold are refused soon; growing clusters are given time."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray._raylet import GCS_AUTOSCALER_CLUSTER_CONFIG_KEY, GCS_AUTOSCALER_STATE_NAMESPACE
from ray.core.generated import autoscaler_pb2
from ray.experimental import internal_kv

from tirazh.actors.messages import ReplicaConfig
from tirazh.actors.placement import describe_shortage, is_growing, refuse_impossible
from tirazh.errors import RequestError

SOON_S = 30.0


def replica(**settings: object) -> ReplicaConfig:
    return ReplicaConfig(model="none", **settings)  # type: ignore[arg-type]


def test_a_shortage_names_the_needed_and_the_existing_resources() -> None:
    cluster = {"CPU": 8.0, "GPU": 1.0}
    assert describe_shortage(replica(tensor_parallel=8), cluster) is None
    assert describe_shortage(replica(device="cuda", tensor_parallel=2), cluster) == (
        "a replica of 2 ranks needs 2 CPU and 2 GPU, but the cluster has 8 CPU and 1 GPU"
    )


@pytest.mark.ray
@pytest.mark.slow
def test_a_replica_that_the_cluster_can_never_hold_is_refused_soon_and_leaves_no_demand_behind(ray_local: None) -> None:
    started = time.monotonic()
    with pytest.raises(RequestError, match=r"a replica of 2 ranks needs 2 CPU and 2 GPU, .* 0 GPU"):
        refuse_impossible(replica(device="cuda", tensor_parallel=2))
    assert time.monotonic() - started < SOON_S
    rows = ray.util.placement_group_table().values()
    assert all(row["state"] == "REMOVED" for row in rows if row["name"].startswith("tirazh-"))


@pytest.mark.ray
def test_a_replica_that_fits_is_accepted_at_once(ray_local: None) -> None:
    started = time.monotonic()
    refuse_impossible(replica(tensor_parallel=2))
    assert time.monotonic() - started < 1.0


@pytest.fixture
def growing_to_four_gpus(ray_local: None) -> Iterator[None]:
    """Report to Ray, as autoscaler v2 and KubeRay do, that the cluster may grow to 4 GPUs."""
    config = autoscaler_pb2.ClusterConfig(
        node_group_configs=[
            autoscaler_pb2.NodeGroupConfig(resources={"CPU": 8, "GPU": 2}, min_count=0, max_count=2, name="gpus")
        ]
    )
    key, namespace = GCS_AUTOSCALER_CLUSTER_CONFIG_KEY.encode(), GCS_AUTOSCALER_STATE_NAMESPACE.encode()
    internal_kv._internal_kv_put(key, config.SerializeToString(), namespace=namespace)
    yield
    internal_kv._internal_kv_del(key, namespace=namespace)


@pytest.mark.ray
@pytest.mark.usefixtures("growing_to_four_gpus")
def test_a_replica_that_the_cluster_can_grow_to_hold_is_accepted() -> None:
    started = time.monotonic()
    refuse_impossible(replica(device="cuda", tensor_parallel=4))
    assert time.monotonic() - started < 1.0


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("growing_to_four_gpus")
def test_a_replica_beyond_the_limit_of_a_growing_cluster_is_refused() -> None:
    with pytest.raises(RequestError, match=r"needs 5 CPU and 5 GPU, but the cluster has .* CPU and 4 GPU"):
        refuse_impossible(replica(device="cuda", tensor_parallel=5))


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ({"pending_launches": {"gpu_worker": 1}, "pending_nodes": []}, True),
        ({"pending_launches": {}, "pending_nodes": [["10.0.0.7", "gpu_worker", "setting-up"]]}, True),
        ({"pending_launches": {}, "pending_nodes": []}, False),
        (None, False),
    ],
    ids=["launching", "setting up", "idle", "no report"],
)
def test_an_older_autoscaler_counts_as_growing_while_it_starts_machines(
    report: dict[str, Any] | None, expected: bool
) -> None:
    assert is_growing(json.dumps({"autoscaler_report": report}).encode()) is expected
    assert is_growing(None) is False
