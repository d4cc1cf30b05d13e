"""The families that split over ranks give the same answers on two ranks as transformers does on one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed import RankPool, own_place
from tests.model.families.random_models import LABELS, MODELS, VOCABULARY, answers, random_model
from tests.model.tiny import build_engine, greedy_requests, random_prompts, run
from tirazh.actors.model_engine import connect_ranks
from tirazh.errors import CheckpointError, RequestError
from tirazh.model.architectures import FAMILIES
from tirazh.model.engine.runner import ModelRunner
from tirazh.model.engine.self_check import SelfCheck
from tirazh.model.layers.packed_linear import pack_linears
from tirazh.model.requests import EngineJob, SamplingParams, ScoreRequest
from tirazh.model.step import StepRows
from tirazh.model.tensor_parallel import shard_model

NUM_NEW = 4
PROMPTS = random_prompts([5, 15, 17, 40])
SPLIT = [family.model_type for family in FAMILIES if family.unsplit is None]


class Folder:
    """A model directory of transformers, as `shard_model` takes it."""

    def __init__(self, path: str) -> None:
        self.path = path


def answers_of_engine(folder: str) -> tuple[list[tuple[int, ...]], list[list[float]]]:
    """In a rank: split the model, check it as a replica does, and run all requests."""
    torch.set_num_threads(1)
    connect_ranks(own_place(), device="cpu")
    check = SelfCheck(160)
    source: Any = Folder(folder)
    model = shard_model(
        None, source, dtype="float32", device="cpu", tp_rank=own_place().rank, tp_size=2, on_loaded=check.record
    )
    pack_linears(model, rows=8)
    check.compare(ModelRunner(model, num_slots=2, max_length=160), StepRows(prefill=64, decode=8, prefill_logits=4))
    engine = build_engine(model, job=EngineJob(labels=LABELS), max_length=160, num_tokens=VOCABULARY)
    sampling = SamplingParams(max_new_tokens=NUM_NEW, temperature=0)
    results: list[Any] = run(
        engine, [*greedy_requests(PROMPTS, sampling), *(ScoreRequest(prompt_token_ids=prompt) for prompt in PROMPTS)]
    )
    count = len(PROMPTS)
    return [each.token_ids for each in results[:count]], [list(each.logprobs) for each in results[count:]]


def split_is_caught(folder: str) -> str:
    """In a rank: what a replica's check says of a model that DeepSpeed splits wrongly."""
    import tirazh.model.tensor_parallel

    torch.set_num_threads(1)
    connect_ranks(own_place(), device="cpu")
    tirazh.model.tensor_parallel.check_tensor_parallel = lambda *_: None
    check = SelfCheck(160)
    source: Any = Folder(folder)
    model = shard_model(
        None, source, dtype="float32", device="cpu", tp_rank=own_place().rank, tp_size=2, on_loaded=check.record
    )
    try:
        check.compare(ModelRunner(model, num_slots=2, max_length=160), StepRows(prefill=64, decode=8, prefill_logits=4))
    except CheckpointError as error:
        return str(error)
    return "nothing"


@pytest.mark.parametrize("name", SPLIT)
def test_two_ranks_answer_as_transformers(two_ranks: RankPool, tmp_path: Path, name: str) -> None:
    model = random_model(MODELS[name]())
    model.save_pretrained(tmp_path)
    tokens, logprobs = answers(model, PROMPTS, NUM_NEW, VOCABULARY)
    for rank_tokens, rank_logprobs in two_ranks.run(answers_of_engine, str(tmp_path)):
        assert rank_tokens == tokens
        for found, expected in zip(rank_logprobs, logprobs, strict=True):
            assert found == pytest.approx(expected, abs=1e-4)


def test_a_family_that_does_not_split_is_refused_in_the_ranks_too(two_ranks: RankPool, tmp_path: Path) -> None:
    random_model(MODELS["olmo2"]()).save_pretrained(tmp_path)
    with pytest.raises(RequestError, match="model_type olmo2 cannot be split over --tensor-parallel 2 ranks"):
        two_ranks.run(answers_of_engine, str(tmp_path))


def test_a_model_that_is_split_wrongly_is_refused_at_its_start(two_ranks: RankPool, tmp_path: Path) -> None:
    random_model(MODELS["stablelm"]()).save_pretrained(tmp_path)
    for message in two_ranks.run(split_is_caught, str(tmp_path)):
        assert "model_type stablelm cannot be run: on a prompt of" in message
