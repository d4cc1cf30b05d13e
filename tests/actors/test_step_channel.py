"""Steps of any size reach the other ranks, and a rank that sends nothing is noticed."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from tests.distributed import RankPool
from tirazh.actors.step_channel import StepChannel


def exchange(sizes: list[int]) -> list[int]:
    channel = StepChannel[dict[str, Any]](timeout_s=30)
    received = []
    for size in sizes:
        step: dict[str, Any] | None = {"tokens": np.arange(size), "phase": "decode"}
        if torch.distributed.get_rank() == 0:
            channel.send(step)
        else:
            step = channel.receive()
        assert step is not None
        received.append(int(step["tokens"].sum()))
    return received


def wait_for_silence() -> str:
    channel = StepChannel[Any](timeout_s=0.5)
    if torch.distributed.get_rank() == 0:
        time.sleep(1.5)
        return ""
    try:
        channel.receive()
    except Exception as error:  # noqa: BLE001 - its text is what is tested
        return f"{type(error).__name__}: {error}"
    return "received something"


def test_steps_of_any_size_arrive_in_order(two_ranks: RankPool) -> None:
    sizes: list[Any] = [0, 10, 1000, 1022, 1023, 1024, 1025, 100_000, 3]
    expected = [size * (size - 1) // 2 for size in sizes]
    assert two_ranks.run(exchange, sizes) == [expected, expected]


def test_the_other_ranks_notice_a_rank_0_that_sends_nothing(two_ranks: RankPool) -> None:
    assert two_ranks.run(wait_for_silence)[1] == "ReplicaError: rank 0 sent no step for 0.5 s"
