"""Every family on the list gives the tokens and label probabilities of transformers' own forward pass.

Prompts are shorter and longer than the sliding windows of 16 tokens, and completions and labels cross them.
"""

from __future__ import annotations

import pytest
import torch

from tests.model.families.random_models import LABELS, MODELS, VOCABULARY, answers, random_model
from tests.model.tiny import build_engine, greedy_requests, random_prompts, run, without_logprob
from tirazh.model.architectures import FAMILIES
from tirazh.model.layers.packed_linear import pack_linears
from tirazh.model.requests import Completion, EngineJob, LabelScores, SamplingParams, ScoreRequest

NUM_NEW = 6
LENGTHS = [1, 12, 15, 17, 40, 90]  # 90 tokens are prefilled in two chunks of 64 rows
PREFIX = random_prompts([20], seed=3)[0]


def assert_engine_is_transformers(name: str, prefix: tuple[int, ...]) -> None:
    model = random_model(MODELS[name]())
    prompts = [prefix + prompt for prompt in random_prompts(LENGTHS)]
    tokens, logprobs = answers(model, prompts, NUM_NEW, VOCABULARY)
    pack_linears(model, rows=8)
    job = EngineJob(prefix_token_ids=prefix, labels=LABELS)
    engine = build_engine(model, job=job, max_length=160, num_tokens=VOCABULARY)
    sampling = SamplingParams(max_new_tokens=NUM_NEW, temperature=0)
    results = run(engine, [*greedy_requests(prompts, sampling), *(ScoreRequest(prompt_token_ids=p) for p in prompts)])
    completions = [without_logprob(result) for result in results[: len(prompts)]]
    assert completions == [Completion(token_ids=each, finish_reason="length") for each in tokens]
    for result, expected in zip(results[len(prompts) :], logprobs, strict=True):
        assert isinstance(result, LabelScores)
        assert result.logprobs == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_the_engine_answers_as_transformers(name: str) -> None:
    assert_engine_is_transformers(name, ())


@pytest.mark.parametrize("name", ["mistral", "gemma2", "gpt2, scaled by layer"])
def test_the_engine_answers_as_transformers_behind_a_shared_prefix_longer_than_a_window(name: str) -> None:
    assert_engine_is_transformers(name, PREFIX)


def test_every_family_on_the_list_is_tested() -> None:
    assert {config().model_type for config in MODELS.values()} == {family.model_type for family in FAMILIES}


@pytest.mark.parametrize("name", ["mistral", "gemma2"])
def test_a_row_has_the_same_bits_alone_and_beside_others(name: str) -> None:
    model = random_model(MODELS[name]())
    prompts = random_prompts([30, 90, 3, 50])
    scores = [ScoreRequest(prompt_token_ids=prompt) for prompt in prompts]

    def engine() -> object:
        return build_engine(model, job=EngineJob(labels=LABELS), max_length=160, num_slots=4)

    together = run(engine(), scores)
    assert [run(engine(), [each])[0] for each in scores] == together
    assert torch.tensor(together[0].logprobs).isfinite().all()
