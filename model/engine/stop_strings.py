"""Where a completion's text meets one of its stop strings."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def find_stop(
    token_ids: Sequence[int], stop: Sequence[str], decode: Callable[[Sequence[int]], str] | None
) -> int | None:
    """Length in characters of the decoded text before the first stop string; None when there is none yet.

    A character may be spread over several tokens, so the whole completion is decoded each time: completions are short
    against the forward that made their last token.
    """
    if decode is None:
        raise ValueError("stop strings need a decoder")
    text = decode(token_ids)
    found = [text.find(string) for string in stop if string in text]
    return min(found, default=None)
