"""An engine for whole jobs without a model: `run_job(spec, engine="tests.pipeline.fakes")`.

Completions are the prompt's own first tokens. A label is likely where its words are in the prompt. A row that asks for
13 new tokens kills its replica each time, one that asks for 12 only the first time.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from actors.echo import EchoEngine, EchoRunner, count_weight_bytes
from actors.messages import ReplicaConfig
from actors.rendezvous import Place
from model.errors import CheckpointError
from model.requests import GenerateRequest, LabelScores, Request, Result

__all__ = ["build_engine", "build_runner", "count_weight_bytes"]

DEADLY, DEADLY_ONCE = 13, 12
LIKELY, UNLIKELY = -1.0, -5.0


class FakeEngine(EchoEngine):
    def __init__(self, runner: Any, config: ReplicaConfig) -> None:
        super().__init__(runner, config)
        self._died = Path(config.model) / "died"

    def _answer(self, request: Request) -> Result:
        if isinstance(request, GenerateRequest):
            self._obey(request.sampling.max_new_tokens)
            return super()._answer(request)
        prompt = tuple(request.prompt_token_ids)
        labels = self._config.job.labels
        return LabelScores(logprobs=tuple(LIKELY if _holds(prompt, label) else UNLIKELY for label in labels))

    def _obey(self, max_new_tokens: int) -> None:
        if max_new_tokens == DEADLY or (max_new_tokens == DEADLY_ONCE and not self._died.exists()):
            self._died.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def _holds(prompt: tuple[int, ...], label: tuple[int, ...]) -> bool:
    return any(prompt[start : start + len(label)] == label for start in range(len(prompt)))


def build_runner(config: ReplicaConfig, place: Place) -> EchoRunner:
    if (Path(config.model) / "refuse").exists():
        raise CheckpointError("the weights of this model are not what its config says")
    return EchoRunner()


def build_engine(config: ReplicaConfig, runner: Any) -> FakeEngine:
    return FakeEngine(runner, config)
