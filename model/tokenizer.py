"""Encodes and decodes text with the Rust `tokenizers` library; needs neither torch nor transformers.

Reads `tokenizer.json`, or `vocab.json` with `merges.txt` as the byte-level BPE of GPT-2 and the
ru-gpts models (`tokenizer_files.py`). The name of a control token in a user's text is encoded as
ordinary text; `Tokenizer.marked` is for texts that contain control tokens on purpose.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models

from tirazh.errors import CheckpointError
from tirazh.model.checkpoints.files import check_encoding
from tirazh.model.tokenizer_files import (
    END_OF_TEXT,
    TOKENIZER_FILES,
    TokenizerSettings,
    open_rust,
    optional_json,
    read_settings,
)

__all__ = ["TOKENIZER_FILES", "Tokenizer", "load_tokenizer"]

# Control tokens in every vocabulary that has them, unless its files say otherwise; those of ru-gpts are
# not marked as special.
_CONTROL_NAMES = ("<pad>", "<s>", "</s>", "<unk>", "<mask>", END_OF_TEXT)
# A text of one token in most vocabularies, which changes nothing in what is decoded after it.
_ANCHOR = "a"
_UNKNOWN = "\U0010ffff"  # a character that no vocabulary holds
# What transformers' clean_up_tokenization replaces, in its order.
_CLEAN_UPS = (
    *((" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'")),
    *((" n't", "n't"), (" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re")),
)


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """A tokenizer and its special ids.

    `size` is the number of token ids; the padded vocabulary of a model may be larger.
    `end_token_ids` end a completion. `control_tokens` are the ids of the control tokens by name;
    `control_ids` are those that no user's text is encoded to and that are not decoded.
    `prefix_token_ids` are the tokens that the model was trained to see before every text (none in the
    GPT-2 family); `encode` does not add them. `cleans_up`: decoded text loses the spaces before
    punctuation, as the tokenizer's files ask. `mark_ids` are the tokens of marks (`marked`).
    """

    rust: tokenizers.Tokenizer = field(repr=False)
    size: int
    end_token_ids: tuple[int, ...]
    pad_token_id: int
    control_ids: frozenset[int]
    prefix_token_ids: tuple[int, ...] = ()
    control_tokens: Mapping[str, int] = field(default_factory=dict)
    cleans_up: bool = False
    mark_ids: Mapping[int, int] = field(default_factory=dict)
    _marked: dict[tuple[tuple[str, str], ...], Tokenizer] = field(default_factory=dict, compare=False, repr=False)

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
        encoded = [self._without_controls(text, encoding.ids) for text, encoding in zip(texts, encodings, strict=True)]
        if not self.mark_ids:
            return encoded
        return [[self.mark_ids.get(token, token) for token in ids] for ids in encoded]

    def marked(self, marks: Mapping[str, str]) -> Tokenizer:
        """Return the same tokenizer for texts in which marks stand for control tokens.

        `marks` maps each mark, a text that nothing else in a text contains, to the name of its control
        token. A mark is split off and encoded as the name would be by the model's own tools; the name
        itself is still encoded as text.
        """
        if not marks:
            return self
        key = tuple(sorted(marks.items()))
        if key not in self._marked:
            rust = tokenizers.Tokenizer.from_str(self.rust.to_str())
            rust.encode_special_tokens = True
            flags = {token.content: token for token in rust.get_added_tokens_decoder().values()}
            rust.add_tokens([_mark(mark, flags.get(name), rust.normalizer) for mark, name in key])
            ids = {mark: rust.token_to_id(mark) for mark, _ in key}
            mark_ids = {token: self.control_tokens[name] for mark, name in key if (token := ids[mark]) is not None}
            self._marked[key] = replace(self, rust=rust, mark_ids=mark_ids, _marked={})
        return self._marked[key]

    def decode(self, ids: Sequence[int]) -> str:
        """Decode the tokens of a whole text. Skips control tokens and ids of `size` or more."""
        kept = [token for token in ids if token < self.size and token not in self.control_ids]
        text: str = self.rust.decode(kept, skip_special_tokens=True)
        if self.cleans_up:
            for old, new in _CLEAN_UPS:
                text = text.replace(old, new)
        return text

    def decode_completion(self, ids: Sequence[int]) -> str:
        """Decode tokens that continue a text: the text of both less the first one.

        It differs from `decode` where a tokenizer drops the space at the beginning of a text
        (SentencePiece, WordPiece).
        """
        if isinstance(self.rust.decoder, decoders.ByteLevel):
            return self.decode(ids)
        anchor = self.anchor_ids
        before, text = self.decode(anchor), self.decode([*anchor, *ids])
        return text[len(before) :] if text.startswith(before) else self.decode(ids)

    @cached_property
    def anchor_ids(self) -> list[int]:
        """Tokens behind which `decode_completion` decodes a completion."""
        return self.encode(_ANCHOR)

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


def load_tokenizer(directory: str | None, model: str | None = None) -> Tokenizer:
    """Load the tokenizer of a directory.

    `model` is the directory of the model, whose files name end tokens too (default: the same
    directory). Raises CheckpointError when there is no tokenizer, or it cannot be read.
    """
    if directory is None:
        raise CheckpointError("the model directory has no tokenizer; give a tokenizer directory with --tokenizer")
    folder = Path(os.path.expanduser(directory))
    rust, settings = _open(folder)
    rust.no_padding()
    rust.no_truncation()
    controls = _control_tokens(rust)
    rust.encode_special_tokens = True
    size = max(rust.get_vocab(with_added_tokens=True).values()) + 1
    model_folder = folder if model is None else Path(os.path.expanduser(model))
    has_config = (model_folder / "config.json").is_file()
    ends = _end_ids(rust, size, settings, model_folder if has_config else folder)
    unknown = {token.id for token in rust.model.tokenize(_UNKNOWN)}  # stand for text, so they are not removed
    cleans_up = settings.values.get("clean_up_tokenization_spaces") is True
    return Tokenizer(
        rust=rust,
        size=size,
        end_token_ids=ends,
        pad_token_id=_pad_id(rust, settings, ends),
        control_ids=frozenset(controls.values()) - unknown,
        prefix_token_ids=_prefix_ids(rust),
        control_tokens=controls,
        # transformers does not do it for BPE, where the spaces before punctuation are the text's own.
        cleans_up=cleans_up and not isinstance(rust.model, models.BPE),
    )


def _open(folder: Path) -> tuple[tokenizers.Tokenizer, TokenizerSettings]:
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
        settings = read_settings(folder)
        rust = open_rust(folder, settings)
        if not rust.get_vocab(with_added_tokens=True):
            raise ValueError("it has no tokens")
        return rust, settings
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


def _control_tokens(rust: tokenizers.Tokenizer) -> dict[str, int]:
    """The control tokens by name: the special ones, and the usual names that are not added as other tokens."""
    added = {token.content: token.special for token in rust.get_added_tokens_decoder().values()}
    names = [name for name, is_special in added.items() if is_special]
    names += [name for name in _CONTROL_NAMES if name not in added]
    return {name: token for name in names if (token := rust.token_to_id(name)) is not None}


def _prefix_ids(rust: tokenizers.Tokenizer) -> tuple[int, ...]:
    """The special tokens that the tokenizer puts before a text. Those that it puts behind one (an end
    token) are left out, because a completion follows the prompt."""
    encoding = rust.encode(_ANCHOR)
    is_special: list[int] = encoding.special_tokens_mask
    number = next((index for index, mask in enumerate(is_special) if not mask), 0)
    return tuple(encoding.ids[:number])


def _end_ids(rust: tokenizers.Tokenizer, size: int, settings: TokenizerSettings, folder: Path) -> tuple[int, ...]:
    """The ids that end a completion: the tokenizer's, and those of the model's generation_config.json or,
    without one, of its config.json. Names that are usual for such a token count where there are none.

    `<|endoftext|>` ends a text of ruGPT-3 XL, whatever a copy of its tokenizer says.
    """
    config = optional_json(folder / "config.json")
    is_own = str(config.get("model_type", "rugpt3")).startswith("rugpt3")
    names = [END_OF_TEXT if is_own else None, settings.name_of("eos_token")]
    ids = [token for name in names if name is not None and (token := rust.token_to_id(name)) is not None]
    generation = folder / "generation_config.json"
    ids += _listed_ids((optional_json(generation) if generation.is_file() else config).get("eos_token_id"))
    ids = [token for token in dict.fromkeys(ids) if token < size]
    for name in (END_OF_TEXT, "</s>"):
        if not ids and (token := rust.token_to_id(name)) is not None:
            ids = [token]
    if not ids:
        raise CheckpointError(
            f"the tokenizer in {folder} has no end-of-text token ({END_OF_TEXT}, </s> or an eos_token); give "
            "another with --tokenizer"
        )
    return tuple(ids)


def _listed_ids(value: Any) -> list[int]:
    """The ids of `eos_token_id`, a number or a list; values of other types do not count."""
    ids: list[Any] = value if isinstance(value, list) else [value]
    return [token for token in ids if isinstance(token, int) and not isinstance(token, bool) and token >= 0]


def _pad_id(rust: tokenizers.Tokenizer, settings: TokenizerSettings, ends: Sequence[int]) -> int:
    """Prefer the name `<pad>` to the settings: those of a published copy of ru-gpts' tokenizer say `</s>`."""
    for name in ("<pad>", settings.name_of("pad_token")):
        if name is not None and (token := rust.token_to_id(name)) is not None:
            return int(token)
    return ends[0]


def _mark(mark: str, token: AddedToken | None, normalizer: Any) -> AddedToken:
    """An added token that is split off a text as `token` would be."""
    if token is None:
        return AddedToken(mark, normalized=False)
    # Some normalisers remove a private-use character or put a space before it: there a mark is split off first.
    survives = normalizer is None or normalizer.normalize_str(mark) == mark
    flags = {name: getattr(token, name) for name in ("single_word", "lstrip", "rstrip")}
    return AddedToken(mark, normalized=token.normalized and survives, **flags)
