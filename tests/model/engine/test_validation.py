"""What makes a single request impossible to run, as the sentence that its row gets."""

from __future__ import annotations

import pytest

from tirazh.model.engine.config import EngineConfig
from tirazh.model.engine.labels.trie import split_trie
from tirazh.model.engine.validation import find_problem, num_shared_tokens
from tirazh.model.requests import EngineJob, GenerateRequest, Request, SamplingParams, ScoreRequest, TextScoreRequest

CONFIG = EngineConfig(num_slots=1, max_length=40, num_tokens=50, end_token_ids=(), prefill_rows=64, decode_rows=8)
LABELS = ((1, 2, 3), (1, 4))  # two nodes deep; a label's last token takes no position
PREFIX = (7, 8, 9)


def score(*tokens: int) -> ScoreRequest:
    return ScoreRequest(prompt_token_ids=tokens)


def generate(*tokens: int) -> GenerateRequest:
    return GenerateRequest(prompt_token_ids=tokens, sampling=SamplingParams(), seed=0)


def problem_of(request: Request, labels: tuple[tuple[int, ...], ...] = LABELS) -> str | None:
    job = EngineJob(prefix_token_ids=PREFIX, labels=labels)
    return find_problem(request, CONFIG, job, split_trie(labels, max_nodes=9) if labels else None)


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (generate(), "the prompt is empty"),
        (generate(*[1] * 40), "the prompt has 40 tokens; with what follows it, 40 fit"),
        (score(*[1] * 39), "the prompt has 39 tokens; with what follows it, 40 fit"),
        (generate(1, 50), "the prompt holds a token id outside 0 to 49"),
        (generate(-1), "the prompt holds a token id outside 0 to 49"),
        (generate(*PREFIX, 50), "the prompt holds a token id outside 0 to 49"),
    ],
)
def test_a_request_that_cannot_be_run_gets_a_sentence(request_: Request, sentence: str) -> None:
    assert problem_of(request_) == sentence


@pytest.mark.parametrize("request_", [generate(*[1] * 39), score(*[1] * 38), generate(*PREFIX, 49), generate(0)])
def test_a_request_that_fits_has_no_problem(request_: Request) -> None:
    assert problem_of(request_) is None


def test_label_scores_need_labels() -> None:
    assert problem_of(score(1), labels=()) == "label scores were requested, but the job has no labels"


def test_a_prompt_shares_the_whole_prefix_or_nothing_and_keeps_a_token_of_its_own() -> None:
    job = EngineJob(prefix_token_ids=PREFIX)
    assert num_shared_tokens(generate(*PREFIX, 1), job) == 3
    assert num_shared_tokens(generate(*PREFIX), job) == 0
    assert num_shared_tokens(generate(7, 8, 1, 1), job) == 0


def test_a_text_that_is_scored_keeps_the_last_token_of_its_context() -> None:
    job = EngineJob(prefix_token_ids=PREFIX)
    assert num_shared_tokens(TextScoreRequest(token_ids=(*PREFIX, 1, 2, 3), num_context=4), job) == 3
    assert num_shared_tokens(TextScoreRequest(token_ids=(*PREFIX, 1, 2, 3), num_context=3), job) == 0
