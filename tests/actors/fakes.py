"""An engine module controlled by its prompts: it echoes, fails, dies, hangs or is slow, on the rank
that a prompt names.

`ReplicaConfig(engine="module:tests.actors.fakes")`. A prompt's first token says what to do and the
second on which rank; any other prompt is echoed. `WORK` is followed by a number of layers and the
tenths of a second that each takes.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tirazh.actors.echo import EchoEngine
from tirazh.actors.messages import ReplicaConfig
from tirazh.actors.progress import ProgressCounter
from tirazh.actors.rendezvous import RankPlace
from tirazh.errors import CheckpointError
from tirazh.model.requests import Completion, GenerateRequest, SamplingParams

Step = list[tuple[int, ...]]  # the prompts of all requests
FAIL, DIE, HANG, WORK = 901, 902, 903, 904
REFUSED_MODEL = "refused"


def prompt(*token_ids: int) -> GenerateRequest:
    return GenerateRequest(prompt_token_ids=token_ids, sampling=SamplingParams(), seed=0)


@dataclass(kw_only=True)
class ObedientRunner:
    rank: int
    world_size: int
    progress: ProgressCounter

    def execute(self, step: Step, /) -> None:
        for order, *details in step:
            if details[:1] != [self.rank]:
                continue
            if order == FAIL:
                raise ZeroDivisionError("as requested")
            if order == DIE:
                os.kill(os.getpid(), signal.SIGKILL)
            if order == HANG:
                time.sleep(3600)
            if order == WORK:
                self._work(*details[1:])
        if self.world_size > 1:
            self._wait_for_all_ranks()

    def _work(self, layers: int, tenths: int) -> None:
        for _ in range(layers):
            time.sleep(tenths / 10)
            self.progress.beat()

    def _wait_for_all_ranks(self) -> None:
        """Wait as the all-reduce in a model's layers does."""
        import torch

        torch.distributed.barrier()


class ObedientEngine(EchoEngine):
    def step(self) -> list[tuple[int, Any]]:
        taken, self._waiting = list(self._waiting), type(self._waiting)()
        self._execute([tuple(request.prompt_token_ids) for _, request in taken])
        return [
            (request_id, Completion(token_ids=tuple(request.prompt_token_ids), finish_reason="length"))
            for request_id, request in taken
        ]


def build_runner(config: ReplicaConfig, rank_place: RankPlace, progress: ProgressCounter) -> ObedientRunner:
    if config.model == REFUSED_MODEL:
        raise CheckpointError("no model directory refused")
    return ObedientRunner(rank=rank_place.rank, world_size=rank_place.world_size, progress=progress)


def count_weight_bytes(runner: ObedientRunner) -> int:
    return 0


def build_engine(config: ReplicaConfig, runner: ObedientRunner, execute: Callable[[Any], object]) -> ObedientEngine:
    return ObedientEngine(config, execute)
