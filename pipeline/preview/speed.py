"""Measures the speed of a replica in this process, for the forecast of a preview."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, islice

from tirazh.actors.local_replica import LocalReplica
from tirazh.model.requests import Completion, GenerateRequest, Request
from tirazh.pipeline.forecast.estimate import MeasuredSpeed

# Prompt tokens that are computed to measure the speed of prompts: some prefill steps, full ones.
_PROMPT_TOKENS = 1_024
# Prompts of the sequences with which the speed of generation is measured; what they say does not matter.
_SHORT_PROMPT = 16
# Tokens that each of them generates: few where the preview itself was slow.
_NEW_TOKENS, _FEW_NEW_TOKENS, _SLOW_S = 16, 4, 10.0


def measure_speed(
    replica: LocalReplica, requests: Sequence[Request], *, sequences: int, num_shared: int, took_s: float
) -> MeasuredSpeed:
    """Run requests like `requests` again, as many at once as the job will, without using their results.

    `sequences` is the smaller of the job's sequences and the replica's slots, `num_shared` the length of the shared
    prefix in tokens, `took_s` how long `requests` took.
    """
    own = max(1, sum(len(each.prompt_token_ids) - num_shared for each in requests) // len(requests))
    count = min(sequences, max(len(requests), -(-_PROMPT_TOKENS // own)))
    prompts = [_with_new_tokens(each, 1, number) for number, each in enumerate(islice(cycle(requests), count))]
    prompt_s, _ = _time(replica, prompts)
    prompt_token_s = prompt_s / (count * own)
    generating = [each for each in requests if isinstance(each, GenerateRequest)]
    if not generating:
        return MeasuredSpeed(prompt_token_s=prompt_token_s, new_token_s=0.0, start_s=replica.start_s)
    most = min(_NEW_TOKENS if took_s < _SLOW_S else _FEW_NEW_TOKENS, generating[0].sampling.max_new_tokens)
    short = [
        replace(each, prompt_token_ids=tuple(each.prompt_token_ids)[-_SHORT_PROMPT:])
        for each in islice(cycle(generating), sequences)
    ]
    one_s, one = _time(replica, [_with_new_tokens(each, 1, number) for number, each in enumerate(short)])
    all_s, tokens = _time(replica, [_with_new_tokens(each, 1 + most, number) for number, each in enumerate(short)])
    new_token_s = (all_s - one_s) / (tokens - one) if tokens > one and all_s > one_s else all_s / max(1, tokens)
    return MeasuredSpeed(prompt_token_s=prompt_token_s, new_token_s=new_token_s, start_s=replica.start_s)


def _with_new_tokens(request: Request, count: int, number: int) -> Request:
    """The same request for at most `count` tokens, with other random numbers."""
    if not isinstance(request, GenerateRequest):
        return request
    return replace(request, sampling=replace(request.sampling, max_new_tokens=count), seed=number)


def _time(replica: LocalReplica, requests: Sequence[Request]) -> tuple[float, int]:
    """Seconds that the requests take together, and the tokens that they generate."""
    began = time.monotonic()
    results = replica.run(requests)
    seconds = time.monotonic() - began
    return seconds, sum(len(each.token_ids) for each in results if isinstance(each, Completion))
