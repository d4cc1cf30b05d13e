"""A run that waits for resources says for which, and what is free."""

from __future__ import annotations

import time

import pytest
import ray
from ray.util.placement_group import placement_group, remove_placement_group

from tirazh.actors.placement import group_prefix
from tirazh.pipeline.execution.group_watch import telling_of_waits, wait_sentence

DEADLINE_S = 60.0


def test_the_sentence_names_the_replicas_and_what_is_free() -> None:
    replica = {"name": "tirazh-run-actor-0", "bundles": {0: {"CPU": 1.0, "GPU": 1.0}, 1: {"CPU": 1.0, "GPU": 1.0}}}
    assert wait_sentence([replica, replica], 75.2, {"GPU": 0.0}, {"CPU": 4.0, "GPU": 2.0}) == (
        "2 replicas wait for 2 CPU and 2 GPU each, for 75 s so far; free in the cluster: 0 of 4 CPU and 0 of 2 GPU"
    )


@pytest.mark.ray
@pytest.mark.usefixtures("ray_local")
def test_a_group_that_waits_is_told_once_in_a_while() -> None:
    told: list[str] = []
    cpus = ray.cluster_resources()["CPU"]
    group = placement_group([{"CPU": 1.0}] * (int(cpus) + 1), name=f"{group_prefix('one')}actor-0")
    try:
        with telling_of_waits("one", told.append, after_s=0.2):
            deadline = time.monotonic() + DEADLINE_S
            while not told:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            time.sleep(0.5)
    finally:
        remove_placement_group(group)
    assert len(told) == 1
    assert told[0].startswith(f"a replica waits for {cpus + 1:g} CPU, for ")
