"""Every rank learns its place from where Ray put it, and nothing about a place is fixed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tirazh.actors.messages import RankLocation
from tirazh.actors.rendezvous import assign_ranks, environment, open_store, shared_memory_names


def locations(*nodes: str, cores: int = 8) -> list[RankLocation]:
    return [
        RankLocation(rank=rank, node_id=node, address=f"10.0.0.{node}", pid=rank, cores=cores)
        for rank, node in enumerate(nodes)
    ]


def test_ranks_of_one_host_meet_on_its_loopback() -> None:
    first, second = assign_ranks(locations("1", "1"))
    assert (first.local_rank, second.local_rank) == (0, 1)
    assert first.local_size == first.world_size == 2
    assert first.is_one_host
    assert second.master_address == "127.0.0.1"


def test_ranks_of_several_hosts_meet_at_rank_0_and_count_only_their_own_host() -> None:
    places = assign_ranks(locations("1", "2", "1", "2", "2"))
    assert [place.local_rank for place in places] == [0, 0, 1, 1, 2]
    assert [place.local_size for place in places] == [2, 3, 2, 3, 3]
    assert {place.master_address for place in places} == {"10.0.0.1"}
    assert not places[0].is_one_host


@pytest.mark.parametrize(
    ("cores", "ranks", "asked", "threads"), [(8, 2, 0, 4), (8, 3, 0, 2), (1, 2, 0, 1), (8, 2, 3, 3)]
)
def test_ranks_share_the_cores_of_their_host(cores: int, ranks: int, asked: int, threads: int) -> None:
    places = assign_ranks(locations(*["1"] * ranks, cores=cores), threads_per_rank=asked)
    assert {place.threads for place in places} == {threads}


def test_the_environment_says_what_torch_and_deepspeed_need() -> None:
    place = replace(assign_ranks(locations("1", "1"))[1], port=1234)
    variables = environment(place, device="cpu")
    expected = {
        "RANK": "1",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "1234",
        "DS_ACCELERATOR": "cpu",
    }
    assert {name: variables[name] for name in expected} == expected


def test_on_a_gpu_every_rank_sees_one_device_which_is_number_0() -> None:
    variables = [environment(place, device="cuda") for place in assign_ranks(locations("1", "1"))]
    assert [v["LOCAL_RANK"] for v in variables] == ["0", "0"]
    assert [v["RANK"] for v in variables] == ["0", "1"]


def test_two_replicas_of_one_host_share_no_port_and_no_name() -> None:
    place = assign_ranks(locations("1", "1"))[0]
    stores = [open_store(place, timeout_s=5), open_store(place, timeout_s=5)]
    assert stores[0].port != stores[1].port
    names = [shared_memory_names(replace(place, port=store.port)) for store in stores]
    assert not set(names[0]) & set(names[1])
