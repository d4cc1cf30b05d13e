"""Search for stop strings in the text of a completion."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def find_stop(
    token_ids: Sequence[int], stop: Sequence[str], decode: Callable[[Sequence[int]], str] | None
) -> int | None:
    """Return the length, in characters, of the decoded text before the first stop string; None when
    there is none.

    Several tokens may make up one character, so the whole completion is decoded each time. Decoding
    a completion is cheap compared with the forward pass that produced its last token. Raises
    ValueError without a decoder.
    """
    if decode is None:
        raise ValueError("stop strings need a decoder")
    text = decode(token_ids)
    found = [text.find(string) for string in stop if string in text]
    return min(found, default=None)
