"""What ends a completion before its greatest length: stop strings, and the tokens that end it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from tirazh.model.engine.config import EngineConfig


def find_stop(
    token_ids: Sequence[int],
    stop: Sequence[str],
    decode: Callable[[Sequence[int]], str] | None,
    *,
    min_new_tokens: int = 0,
) -> int | None:
    """Return the length, in characters, of the decoded text before the first stop string; None when
    there is none. Stop strings that the first `min_new_tokens` tokens complete do not count, as in vLLM.

    Several tokens may make up one character, so the whole completion is decoded each time. Decoding
    a completion is cheap compared with the forward pass that produced its last token. Raises
    ValueError without a decoder.
    """
    if decode is None:
        raise ValueError("stop strings need a decoder")
    if len(token_ids) <= min_new_tokens:
        return None
    text = decode(token_ids)
    passed = len(decode(token_ids[:min_new_tokens])) if min_new_tokens else 0
    found = [text.find(string, max(0, passed - len(string) + 1)) for string in stop]
    return min((at for at in found if at >= 0), default=None)


def ending_ids(stop: Collection[str], config: EngineConfig) -> frozenset[int]:
    """Return the tokens that end a completion: the end tokens, and the control tokens that stop strings
    name."""
    named = {token for token, name in config.control_names.items() if name in stop} if stop else set()
    return frozenset(named.union(config.end_token_ids))
