"""Where the text of a completion can be decoded in two parts. Needs neither torch nor transformers.

A token is not a text: several tokens may make up one character, and some decoders look at the tokens beside
one. Before most tokens a completion can nevertheless be split, so that its newest text needs its last tokens
alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tokenizers import Tokenizer as RustTokenizer

from tirazh.model.tokenizer import Tokenizer

# Decoders that look at one token at a time, behind the first one.
_OF_ONE_TOKEN = {"Metaspace", "WordPiece", "Replace"}
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # stands for the bytes of an incomplete character
_BYTE_TOKEN = "<0x"


def text_splits(tokenizer: Tokenizer) -> Callable[[int], bool]:
    """Return a function that says of a token whether a completion can be split before it.

    Where it can, `decode_completion([*a, token, *b])` is `decode_completion(a)` and
    `decode_completion([token, *b])`, whatever `a` and `b` are. For decoders of which this is not known the
    function says False of every token.
    """
    decoder = _decoder(tokenizer.rust)
    if tokenizer.cleans_up:  # looks for spaces before punctuation in the whole text
        return lambda token: False
    if decoder["type"] == "ByteLevel":
        # Tokens are bytes. A character that is complete in the token alone began there.
        return lambda token: tokenizer.decode((token,))[:1] not in ("", _REPLACEMENT)

    def is_whole(token: int) -> bool:
        """Whether a token is decoded, and is no byte of a character."""
        name: str | None = tokenizer.rust.id_to_token(token)
        is_skipped = token >= tokenizer.size or token in tokenizer.control_ids or name in special
        return name is not None and not is_skipped and _BYTE_TOKEN not in name

    special = {each.content for each in tokenizer.rust.get_added_tokens_decoder().values() if each.special}
    anchor = tokenizer.anchor_ids
    if _looks_at_one_token(decoder) and tokenizer.decode(anchor) and all(map(is_whole, anchor)):
        return is_whole
    return lambda token: False


def _decoder(rust: RustTokenizer) -> dict[str, Any]:
    """The settings of the decoder; the type is None without one: tokens are joined by spaces."""
    if rust.decoder is None:
        return {"type": None}
    settings: dict[str, Any] = json.loads(rust.decoder.__getstate__())
    return settings


def _looks_at_one_token(decoder: dict[str, Any]) -> bool:
    """Whether a decoder that is not of bytes alone decodes every token by itself, except runs of byte tokens and what
    it strips off the beginning of the text."""
    kind = decoder["type"]
    if kind != "Sequence":
        return kind is None or kind in _OF_ONE_TOKEN
    steps: list[dict[str, Any]] = decoder["decoders"]
    kinds = [step["type"] for step in steps]
    fused = kinds.index("Fuse") if "Fuse" in kinds else len(kinds)
    before, behind = kinds[:fused], steps[fused + 1 :]
    # Behind `Fuse` there is one text, no tokens.
    strips_its_beginning = all(step["type"] == "Strip" and not step["stop"] for step in behind)
    return strips_its_beginning and set(before) <= {*_OF_ONE_TOKEN, "ByteFallback", "Strip"}
