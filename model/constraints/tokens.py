"""Describes a tokenizer to llguidance, which computes masks over its vocabulary. No torch."""

from __future__ import annotations

import json
from typing import Any

from llguidance import LLTokenizer

from tirazh.errors import RequestError
from tirazh.model.tokenizer import Tokenizer

# Control tokens get a name that begins with this noncharacter of Unicode, which no text contains: otherwise a text
# that a grammar forces would be encoded to them where it contains their names, and they have no text of their own.
_NONCHARACTER = "\ufdd0"
# Texts that both must read in the same way, behind another text.
_PROBES = ('{"a": ["я", "z"], "b": 7}', " слово — «это»\n", "\U0001f642")


def grammar_tokenizer(tokenizer: Tokenizer) -> LLTokenizer:
    """Return llguidance's view of a tokenizer: byte-level BPE, or BPE with bytes for unknown characters.

    Control tokens are never text; the end tokens end a completion. Raises RequestError for a tokenizer whose tokens
    are not the bytes of a text (Unigram without bytes, WordPiece, word level).
    """
    data: dict[str, Any] = json.loads(tokenizer.rust.to_str())
    _rename_controls(data, {token: f"{_NONCHARACTER}{token}" for token in tokenizer.control_tokens.values()})
    try:
        found = LLTokenizer(
            json.dumps(data, ensure_ascii=False), n_vocab=tokenizer.size, eos_token=list(tokenizer.end_token_ids)
        )
    except ValueError as error:
        raise _refused(str(error).partition(":")[0]) from None
    for probe in _PROBES:
        ids = tokenizer.encode_many(["a" + probe])[0][len(tokenizer.encode("a")) :]
        if found.decode_bytes(ids) != tokenizer.decode_completion(ids).encode():
            raise _refused(f"its tokens of {probe!r} are other bytes there")
    return found


def _rename_controls(data: dict[str, Any], names: dict[int, str]) -> None:
    listed = {int(token["id"]): token for token in data["added_tokens"]}
    for token_id, name in names.items():
        if token_id not in listed:
            flags = {"single_word": False, "lstrip": False, "rstrip": False}
            listed[token_id] = {"id": token_id, **flags}
        listed[token_id] |= {"content": name, "special": True, "normalized": False}
    data["added_tokens"] = [listed[token_id] for token_id in sorted(listed)]
    vocabulary = data["model"].get("vocab")
    if isinstance(vocabulary, dict):
        data["model"]["vocab"] = {names.get(int(token), text): token for text, token in vocabulary.items()}
    data["post_processor"] = None  # it names special tokens; grammars add none


def _refused(reason: str) -> RequestError:
    return RequestError(
        f"this model's tokenizer cannot be used for constrained decoding, which needs byte-level BPE or a vocabulary "
        f"with byte tokens ({reason}); choose another model, or remove --schema, --regex and --choices"
    )
