"""Checks of single requests: what makes it impossible to run one, as a sentence for its row."""

from __future__ import annotations

from tirazh.model.engine.config import EngineConfig
from tirazh.model.engine.label_trie import LabelTrie
from tirazh.model.requests import EngineJob, GenerateRequest, Request


def find_problem(request: Request, config: EngineConfig, job: EngineJob, trie: LabelTrie | None) -> str | None:
    """Return why the request cannot be run; None when it can. `trie` holds the job's labels, if it
    has any."""
    prompt = tuple(request.prompt_token_ids)
    if not prompt:
        return "the prompt is empty"
    is_scored = not isinstance(request, GenerateRequest)
    num_following = (trie.height if trie else 0) if is_scored else 1
    if len(prompt) + num_following > config.max_length:
        return f"the prompt has {len(prompt)} tokens; with what follows it, {config.max_length} fit"
    own_tokens = prompt[num_shared_tokens(prompt, job) :]  # the shared prefix is the job's, not this row's
    if min(own_tokens) < 0 or max(own_tokens) >= config.num_tokens:
        return f"the prompt holds a token id outside 0 to {config.num_tokens - 1}"
    if is_scored and trie is None:
        return "label scores were requested, but the job has no labels"
    return None


def num_shared_tokens(prompt: tuple[int, ...], job: EngineJob) -> int:
    """Return how many tokens a prompt shares with the job's prefix: all of the prefix or none.

    At least one token of a prompt is its own, because logits are computed for own tokens only.
    """
    prefix = job.prefix_token_ids
    return len(prefix) if len(prefix) < len(prompt) and prompt[: len(prefix)] == prefix else 0
