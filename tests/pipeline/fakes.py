"""An engine for whole jobs without a model: `run_job(spec, engine="module:tests.pipeline.fakes")`.

Completions are the first tokens of the prompt. A label is likely if its tokens are in the prompt.
Some values of a row's `max_new_tokens` are instructions: be slow, kill the rank (each time or only
once), kill the process that owns the replica, or stop the rank with SIGSTOP.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tirazh.actors.echo import EchoEngine, EchoRunner, count_weight_bytes
from tirazh.actors.messages import ReplicaConfig
from tirazh.actors.progress import ProgressCounter
from tirazh.actors.rendezvous import RankPlace
from tirazh.errors import CheckpointError
from tirazh.model.requests import EmbedRequest, GenerateRequest, LabelScores, Request, Result, TextScoreRequest

__all__ = ["build_engine", "build_runner", "count_weight_bytes"]

DEADLY, DEADLY_ONCE, DEADLY_TO_THE_OWNER, STOPPING, SLOW = 13, 12, 14, 15, 11
SLOW_S = 0.1
LIKELY, UNLIKELY = -1.0, -5.0


class FakeEngine(EchoEngine):
    def __init__(self, config: ReplicaConfig, execute: Callable[[list[int]], object]) -> None:
        super().__init__(config, execute)
        self._died = Path(config.model) / "died"

    def _answer(self, request: Request) -> Result:
        if isinstance(request, GenerateRequest):
            self._follow_instruction(request.sampling.max_new_tokens)
            return super()._answer(request)
        if isinstance(request, TextScoreRequest | EmbedRequest):
            return super()._answer(request)
        prompt = tuple(request.prompt_token_ids)
        labels = self._jobs[request.job].labels
        return LabelScores(logprobs=tuple(LIKELY if _holds(prompt, label) else UNLIKELY for label in labels))

    def _follow_instruction(self, max_new_tokens: int) -> None:
        if max_new_tokens == SLOW:
            time.sleep(SLOW_S)
        if max_new_tokens == DEADLY or (max_new_tokens == DEADLY_ONCE and not self._died.exists()):
            self._died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if max_new_tokens == DEADLY_TO_THE_OWNER:
            for pid in owner_pids(os.getppid()):
                os.kill(pid, signal.SIGKILL)
            time.sleep(60)
        if max_new_tokens == STOPPING:
            os.kill(os.getpid(), signal.SIGSTOP)


def owner_pids(raylet: int) -> list[int]:
    """The child processes of `raylet` that own a replica."""
    return [pid for pid in children_of(raylet) if b"InferStep" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def children_of(parent: int) -> list[int]:
    return [
        int(pid) for task in Path(f"/proc/{parent}/task").iterdir() for pid in (task / "children").read_text().split()
    ]


def _holds(prompt: tuple[int, ...], label: tuple[int, ...]) -> bool:
    return any(prompt[start : start + len(label)] == label for start in range(len(prompt)))


def build_runner(config: ReplicaConfig, rank_place: RankPlace, progress: ProgressCounter) -> EchoRunner:
    if (Path(config.model) / "refuse").exists():
        raise CheckpointError("the weights of this model are not what its config says")
    return EchoRunner()


def build_engine(config: ReplicaConfig, runner: EchoRunner, execute: Callable[[list[int]], object]) -> FakeEngine:
    return FakeEngine(config, execute)
