"""Rendezvous: rank numbers follow from where Ray has placed the processes, and no port or name is
fixed."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tirazh.actors.messages import RankLocation
from tirazh.actors.rendezvous import (
    BUILD_LOCK_NAME,
    SPIN_COUNT,
    assign_ranks,
    environment,
    open_store,
    shared_memory_names,
    waiting_variables,
)


def locations(*nodes: str, cores: int = 8) -> list[RankLocation]:
    return [
        RankLocation(rank=rank, node_id=node, address=f"10.0.0.{node}", pid=rank, cores=cores)
        for rank, node in enumerate(nodes)
    ]


def test_ranks_of_one_host_connect_over_its_loopback() -> None:
    first, second = assign_ranks(locations("1", "1"))
    assert (first.local_rank, second.local_rank) == (0, 1)
    assert first.local_size == first.world_size == 2
    assert first.is_one_host
    assert second.master_address == "127.0.0.1"


def test_ranks_of_several_hosts_connect_to_rank_0_and_have_a_local_rank_per_host() -> None:
    rank_places = assign_ranks(locations("1", "2", "1", "2", "2"))
    assert [rank_place.local_rank for rank_place in rank_places] == [0, 0, 1, 1, 2]
    assert [rank_place.local_size for rank_place in rank_places] == [2, 3, 2, 3, 3]
    assert {rank_place.master_address for rank_place in rank_places} == {"10.0.0.1"}
    assert not rank_places[0].is_one_host


@pytest.mark.parametrize(
    ("cores", "ranks", "asked", "threads"), [(8, 2, 0, 4), (8, 3, 0, 2), (1, 2, 0, 1), (8, 2, 3, 3)]
)
def test_ranks_divide_the_cores_of_their_host(cores: int, ranks: int, asked: int, threads: int) -> None:
    rank_places = assign_ranks(locations(*["1"] * ranks, cores=cores), threads_per_rank=asked)
    assert {rank_place.threads for rank_place in rank_places} == {threads}


def test_a_node_has_no_more_threads_than_ray_has_cpus_on_it() -> None:
    rank_places = assign_ranks(locations("1", "1", "2"), ray_cpus={"1": 4.0, "2": 64.0})
    assert [rank_place.threads for rank_place in rank_places] == [2, 2, 8]


@pytest.mark.parametrize("chosen", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_waiting_threads_sleep_soon_unless_the_user_has_decided(chosen: str) -> None:
    assert waiting_variables({"PATH": "/bin"})["GOMP_SPINCOUNT"] == str(SPIN_COUNT)
    assert waiting_variables({chosen: "1"}) == {}


WAITED_S = """
import os, time
from tirazh.actors.rendezvous import bounded_spinning
with bounded_spinning():
    import torch
assert "GOMP_SPINCOUNT" not in os.environ
torch.set_num_threads(2)
x = torch.ones(1 << 16)
def parallel():
    torch.exp(x)
parallel()
spent = time.process_time()
for _ in range(20):
    parallel()
    time.sleep(0.02)  # the other thread waits
print(time.process_time() - spent)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="another OpenMP runtime")
def test_torch_loaded_so_has_threads_that_do_not_spin_for_long() -> None:
    """By default the thread that waits takes 5 ms and more of each pause."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    done = subprocess.run([sys.executable, "-c", WAITED_S], env=environment, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.05


def test_the_environment_has_the_variables_of_torch_and_deepspeed() -> None:
    rank_place = replace(assign_ranks(locations("1", "1"))[1], port=1234)
    variables = environment(rank_place, device="cpu")
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


def test_on_gpus_every_rank_has_local_rank_0_because_it_sees_one_device() -> None:
    variables = [environment(rank_place, device="cuda") for rank_place in assign_ranks(locations("1", "1"))]
    assert [v["LOCAL_RANK"] for v in variables] == ["0", "0"]
    assert [v["RANK"] for v in variables] == ["0", "1"]


def test_two_replicas_on_one_host_have_different_ports_and_shared_memory_names() -> None:
    rank_place = assign_ranks(locations("1", "1"))[0]
    stores = [open_store(rank_place, timeout_s=5), open_store(rank_place, timeout_s=5)]
    assert stores[0].port != stores[1].port
    names = [shared_memory_names(replace(rank_place, port=store.port)) for store in stores]
    assert not set(names[0]) & set(names[1])


def test_a_user_without_a_home_gets_a_directory_for_operators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers may run with a user id that is not in the password file, and without HOME."""

    def find_nobody(uid: int) -> Any:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", find_nobody)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = Path(environment(assign_ranks(locations("1"))[0], device="cpu")["TORCH_EXTENSIONS_DIR"])
    assert folder.is_relative_to(tmp_path)
    assert (folder / BUILD_LOCK_NAME).exists()
