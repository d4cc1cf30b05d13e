"""Encodes and decodes text with the Rust `tokenizers` library; needs neither torch nor transformers.

Reads `tokenizer.json`, or `vocab.json` with `merges.txt` as the byte-level BPE of GPT-2 and the
ru-gpts models. The name of a control token in a user's text is encoded as ordinary text.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from tirazh.errors import CheckpointError
from tirazh.model.checkpoints.files import check_encoding, read_json

TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_END_OF_TEXT = "<|endoftext|>"
# Control tokens in every vocabulary that has them; those of ru-gpts are not marked as special.
_CONTROL_NAMES = ("<pad>", "<s>", "</s>", "<unk>", "<mask>", _END_OF_TEXT)


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """A tokenizer and its special ids.

    `size` is the number of token ids; the padded vocabulary of a model may be larger.
    `end_token_ids` end a completion. `prefix_token_ids` are the tokens that the model was trained
    to see before every text (none in the GPT-2 family); `encode` does not add them.
    """

    rust: tokenizers.Tokenizer
    size: int
    end_token_ids: tuple[int, ...]
    pad_token_id: int
    control_ids: frozenset[int]
    prefix_token_ids: tuple[int, ...] = ()

    @property
    def end_token_id(self) -> int:
        """The first of `end_token_ids`."""
        return self.end_token_ids[0]

    def encode(self, text: str) -> list[int]:
        """Encode a text. The name of a control token is encoded as text."""
        return self.encode_many([text])[0]

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode many texts in one call of the library."""
        encodings = self.rust.encode_batch_fast(list(texts), add_special_tokens=False)
        return [self._without_controls(text, encoding.ids) for text, encoding in zip(texts, encodings, strict=True)]

    def decode(self, ids: Sequence[int]) -> str:
        """Decode token ids. Skips control tokens and ids of `size` or more."""
        kept = [token for token in ids if token < self.size and token not in self.control_ids]
        text: str = self.rust.decode(kept, skip_special_tokens=True)
        return text

    def _without_controls(self, text: str, ids: list[int]) -> list[int]:
        """Return `ids` without control tokens.

        A Unigram model may match a control token's name in the text; the name is then split after
        its first character and encoded again.
        """
        for token in self.control_ids.intersection(ids):
            name: str = self.rust.id_to_token(token) or ""
            head, found, tail = text.partition(name)
            if found and len(name) > 1:
                parts = self.encode_many([head + name[:1], name[1:] + tail])
                return [token for part in parts for token in part]
        return [token for token in ids if token not in self.control_ids]


def load_tokenizer(directory: str | None) -> Tokenizer:
    """Load the tokenizer of a directory.

    Raises CheckpointError when there is none, or it cannot be read.
    """
    if directory is None:
        raise CheckpointError("the model directory has no tokenizer; give a tokenizer directory with --tokenizer")
    folder = Path(os.path.expanduser(directory))
    rust = _open(folder)
    rust.no_padding()
    rust.no_truncation()
    rust.encode_special_tokens = True
    settings = _optional_json(folder / "tokenizer_config.json")
    ends = _end_ids(rust, folder, settings)
    added = rust.get_added_tokens_decoder()
    names = {*_CONTROL_NAMES, *(token.content for token in added.values() if token.special)}
    unknown = getattr(rust.model, "unk_token", None)  # stands for any unknown text, so it is not removed
    ids = (rust.token_to_id(name) for name in names if name != unknown)
    return Tokenizer(
        rust=rust,
        size=max(rust.get_vocab(with_added_tokens=True).values()) + 1,
        end_token_ids=ends,
        pad_token_id=_pad_id(rust, settings, ends),
        control_ids=frozenset(token for token in ids if token is not None),
        prefix_token_ids=tuple(rust.encode("").ids),
    )


def _open(folder: Path) -> tokenizers.Tokenizer:
    whole, vocab, merges = (folder / name for name in TOKENIZER_FILES[:3])
    if not whole.is_file() and not (vocab.is_file() and merges.is_file()):
        raise CheckpointError(
            f"no tokenizer in {folder}: neither tokenizer.json nor vocab.json with merges.txt; give a tokenizer "
            "directory with --tokenizer"
        )
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            check_encoding(folder / name)
    try:
        rust = tokenizers.Tokenizer.from_file(str(whole)) if whole.is_file() else _byte_level(folder)
        if not rust.get_vocab(with_added_tokens=True):
            raise ValueError("it has no tokens")
        return rust
    except CheckpointError:
        raise
    except BaseException as error:
        # A panic of the Rust library is not an Exception, and its text does not help a user.
        is_panic = type(error).__name__ == "PanicException"
        if not isinstance(error, Exception) and not is_panic:
            raise
        reason = "the tokenizers library crashed on it" if is_panic else str(error)[:200]
        raise CheckpointError(
            f"the tokenizer in {folder} cannot be read ({reason}); copy it again, or give another with --tokenizer"
        ) from error


def _byte_level(folder: Path) -> tokenizers.Tokenizer:
    """Build GPT-2's tokenizer from its two files, with the tokens that fine-tuned models append."""
    settings = _optional_json(folder / "tokenizer_config.json")
    rust = tokenizers.Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    has_prefix_space = bool(settings.get("add_prefix_space", False))
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=has_prefix_space)
    rust.decoder = decoders.ByteLevel()
    added = {str(name): int(token) for name, token in _optional_json(folder / "added_tokens.json").items()}
    for token, entry in dict(settings.get("added_tokens_decoder") or {}).items():
        added[str(entry["content"])] = int(token)
    for name, token in sorted(added.items(), key=lambda item: item[1]):
        if rust.token_to_id(name) is None:
            rust.add_special_tokens([tokenizers.AddedToken(name, special=True, normalized=False)])
        if rust.token_to_id(name) != token:
            raise CheckpointError(
                f"the tokenizer in {folder} gives {name} the id {token}, but its vocabulary makes it "
                f"{rust.token_to_id(name)}; copy it again, or give another with --tokenizer"
            )
    return rust


def _end_ids(rust: tokenizers.Tokenizer, folder: Path, settings: dict[str, Any]) -> tuple[int, ...]:
    for name in (_END_OF_TEXT, _token_name(settings.get("eos_token")), "</s>"):
        if name is not None and (token := rust.token_to_id(name)) is not None:
            return (token,)
    for config in ("generation_config.json", "config.json"):
        value = _optional_json(folder / config).get("eos_token_id")
        ids = value if isinstance(value, list) else [value]
        if ids and all(isinstance(token, int) and not isinstance(token, bool) and 0 <= token < 2**31 for token in ids):
            return tuple(ids)
    raise CheckpointError(
        f"the tokenizer in {folder} has no end-of-text token ({_END_OF_TEXT}, </s> or an eos_token); give another "
        "with --tokenizer"
    )


def _pad_id(rust: tokenizers.Tokenizer, settings: dict[str, Any], ends: Sequence[int]) -> int:
    """Prefer the name `<pad>` to the settings: those of a published copy of ru-gpts' tokenizer say `</s>`."""
    for name in ("<pad>", _token_name(settings.get("pad_token"))):
        if name is not None and (token := rust.token_to_id(name)) is not None:
            return int(token)
    return ends[0]


def _token_name(value: Any) -> str | None:
    """Return the token that a setting names: a string, or an object with `content`."""
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else None


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
