"""Checks of single requests: what makes it impossible to run one, as a sentence for its row."""

from __future__ import annotations

from tirazh.model.engine.config import EngineConfig
from tirazh.model.engine.labels.trie import SplitTrie
from tirazh.model.requests import EngineJob, GenerateRequest, Request, ScoreRequest, TextScoreRequest


def find_problem(request: Request, config: EngineConfig, job: EngineJob, trie: SplitTrie | None) -> str | None:
    """Return why the request cannot be run; None when it can. `trie` holds the job's labels, if it
    has any."""
    if isinstance(request, TextScoreRequest):
        return _find_problem_of_text(request, config)
    prompt = tuple(request.prompt_token_ids)
    if not prompt:
        return "the prompt is empty"
    is_scored = isinstance(request, ScoreRequest)
    num_following = int(isinstance(request, GenerateRequest))
    if is_scored and trie is not None:
        num_following = trie.height
    if len(prompt) + num_following > config.max_length:
        return f"the prompt has {len(prompt)} tokens; with what follows it, {config.max_length} fit"
    own_tokens = prompt[num_shared_tokens(request, job) :]  # the shared prefix is the job's, not this row's
    if min(own_tokens) < 0 or max(own_tokens) >= config.num_tokens:
        return f"the prompt holds a token id outside 0 to {config.num_tokens - 1}"
    if is_scored and trie is None:
        return "label scores were requested, but the job has no labels"
    return None


def _find_problem_of_text(request: TextScoreRequest, config: EngineConfig) -> str | None:
    if request.num_context < 1:
        return "the text has no context: the model needs a token before the first one that it predicts"
    if len(request.prompt_token_ids) > config.max_length:
        most = config.max_length + 1
        return f"the text has {len(request.token_ids)} tokens with its context; at most {most} fit"
    if request.token_ids and not 0 <= min(request.token_ids) <= max(request.token_ids) < config.num_tokens:
        return f"the text holds a token id outside 0 to {config.num_tokens - 1}"
    return None


def num_shared_tokens(request: Request, job: EngineJob) -> int:
    """Return how many tokens a prompt shares with the job's prefix: all of the prefix or none.

    At least one token of a prompt is its own, because logits are computed for own tokens only; of a text
    that is scored, so is the last token of its context.
    """
    prefix, prompt = job.prefix_token_ids, tuple(request.prompt_token_ids)
    most = request.num_context if isinstance(request, TextScoreRequest) else len(prompt)
    return len(prefix) if len(prefix) < most and prompt[: len(prefix)] == prefix else 0
