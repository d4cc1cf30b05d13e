"""The results of requests that end."""

from __future__ import annotations

from tirazh.model.engine.prefix_caching.tree import PrefixRequest
from tirazh.model.engine.sequences import ActiveSequence
from tirazh.model.requests import (
    Completion,
    Embedding,
    EmbedRequest,
    FinishReason,
    GenerateRequest,
    LabelScores,
    Request,
    Result,
    TextScore,
    TextScoreRequest,
)


def completed(sequence: ActiveSequence, reason: FinishReason, text_end: int | None = None) -> Completion:
    """Return the completion that a sequence has come to; a stop string cuts its text at `text_end`."""
    return Completion(
        token_ids=tuple(sequence.new_tokens), finish_reason=reason, text_end=text_end, logprob=sequence.logprob
    )


def failed(request: Request | PrefixRequest, error: str) -> Result:
    """Return the result of a request that cannot be run, of the request's kind."""
    if isinstance(request, GenerateRequest):
        return Completion(token_ids=(), finish_reason="error", error=error)
    if isinstance(request, TextScoreRequest):
        return TextScore(logprob=None, num_tokens=0, error=error)
    if isinstance(request, EmbedRequest):
        return Embedding(values=(), error=error)
    return LabelScores(logprobs=(), error=error)
