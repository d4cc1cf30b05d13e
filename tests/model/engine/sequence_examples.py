"""Sequences for tests of the scheduler: prompts of ascending tokens that generate or are scored."""

from __future__ import annotations

from tirazh.model.engine.sequences import ActiveSequence
from tirazh.model.requests import GenerateRequest, SamplingParams, ScoreRequest


def generating(length: int, *, cached: int = 0, new_tokens: tuple[int, ...] = ()) -> ActiveSequence:
    prompt = tuple(range(length))
    request = GenerateRequest(prompt_token_ids=prompt, sampling=SamplingParams(), seed=0)
    return ActiveSequence(0, request, prompt, 64, num_cached=cached, new_tokens=list(new_tokens))


def scoring(length: int, *, cached: int = 0) -> ActiveSequence:
    prompt = tuple(range(length))
    return ActiveSequence(0, ScoreRequest(prompt_token_ids=prompt), prompt, 0, num_cached=cached)
