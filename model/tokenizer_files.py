"""Reads the files of a tokenizer as transformers 5 does, and builds the library's tokenizer from them.

The precedence is transformers': `tokenizer.json` before `vocab.json` with `merges.txt`; the entry
`added_tokens_decoder` of `tokenizer_config.json` before `special_tokens_map.json` and
`added_tokens.json`, which count only without it, and then before `tokenizer_config.json`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

from tirazh.errors import CheckpointError
from tirazh.model.checkpoints.files import read_json

TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
END_OF_TEXT = "<|endoftext|>"
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_EXTRA = ("extra_special_tokens", "additional_special_tokens")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True, slots=True)
class TokenizerSettings:
    """What the files beside the vocabulary say.

    `values` are those of `tokenizer_config.json` and `special_tokens_map.json`; `added` are the added
    tokens by id; `named` and `extra` the special tokens with a role (`eos_token`) and without one.
    """

    values: Mapping[str, Any]
    added: Mapping[int, AddedToken]
    named: Mapping[str, AddedToken]
    extra: tuple[AddedToken, ...]

    def name_of(self, role: str) -> str | None:
        """The token of a role such as `eos_token`; None where the files name none."""
        token = self.named.get(role)
        return None if token is None else token.content


def read_settings(folder: Path) -> TokenizerSettings:
    """Read the files beside the vocabulary. Raises CheckpointError for JSON that cannot be read, other
    exceptions for values of a wrong type."""
    values = optional_json(folder / "tokenizer_config.json")
    added: dict[int, AddedToken] = {}
    if "added_tokens_decoder" in values:
        for token_id, entry in dict(values["added_tokens_decoder"] or {}).items():
            added[int(token_id)] = _token(entry)
        names: Mapping[str, int] = {}
    else:
        values = values | optional_json(folder / "special_tokens_map.json")
        names = optional_json(folder / "added_tokens.json")
    named = {role: _special(values[role]) for role in values if role.endswith("_token") and _is_token(values[role])}
    ordered = {role: named[role] for role in (*_NAMED, *named) if role in named}
    extra = tuple(_special(entry) for entry in _extra_entries(values))
    special = {token.content for token in (*ordered.values(), *extra)}
    for name, token_id in names.items():
        is_special = str(name) in special
        added[int(token_id)] = AddedToken(str(name), normalized=not is_special, special=is_special)
    if any(token_id < 0 for token_id in added):
        raise ValueError("an added token has a negative id")
    return TokenizerSettings(values, added, ordered, extra)


def open_rust(folder: Path, settings: TokenizerSettings) -> tokenizers.Tokenizer:
    """Build the library's tokenizer, with all added and special tokens. Raises CheckpointError where the
    files contradict each other, other exceptions for damaged ones."""
    whole = folder / "tokenizer.json"
    rust = tokenizers.Tokenizer.from_file(str(whole)) if whole.is_file() else _byte_level(folder, settings)
    known = {token.content: repr(token) for token in rust.get_added_tokens_decoder().values()}
    roles = {token.content for token in settings.named.values()}
    for token_id, token in sorted(settings.added.items()):
        if known.get(token.content) == repr(token):
            continue
        if not token.special and token.content in roles:
            token.special = True
        rust.add_tokens([token])
        if not whole.is_file() and rust.token_to_id(token.content) != token_id:
            raise CheckpointError(
                f"the tokenizer in {folder} gives {token.content} the id {token_id}, but its vocabulary makes it "
                f"{rust.token_to_id(token.content)}; copy it again, or give another with --tokenizer"
            )
    _add_special(rust, settings)
    if not whole.is_file() and settings.values.get("add_bos_token") is True:
        _add_bos(rust, settings.name_of("bos_token") or END_OF_TEXT)
    return rust


def optional_json(path: Path) -> dict[str, Any]:
    """The object of a JSON file; empty without the file. Raises CheckpointError for a damaged one."""
    return read_json(path) if path.is_file() else {}


def _byte_level(folder: Path, settings: TokenizerSettings) -> tokenizers.Tokenizer:
    """Build GPT-2's tokenizer from its two files."""
    rust = tokenizers.Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    has_prefix_space = bool(settings.values.get("add_prefix_space", False))
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=has_prefix_space)
    rust.decoder = decoders.ByteLevel()
    return rust


def _add_special(rust: tokenizers.Tokenizer, settings: TokenizerSettings) -> None:
    """Mark the special tokens as such.

    transformers also gives a new id to every special token that the vocabulary lacks. Here a token with
    a role gets none (a model was not trained on it, and its id may be another model output's), unless
    further tokens follow it, whose ids depend on it.
    """
    tokens = [*settings.named.values(), *settings.extra]
    if all(rust.token_to_id(token.content) is not None for token in settings.extra):
        tokens = [token for token in tokens if rust.token_to_id(token.content) is not None]
    known = {token.content for token in rust.get_added_tokens_decoder().values()}
    rust.add_tokens([token for token in dict.fromkeys(tokens) if token.content not in known])


def _add_bos(rust: tokenizers.Tokenizer, name: str) -> None:
    token_id = rust.token_to_id(name)
    if token_id is not None:
        rust.post_processor = processors.TemplateProcessing(single=f"{name} $A", special_tokens=[(name, token_id)])


def _extra_entries(values: Mapping[str, Any]) -> Iterator[Any]:
    """The special tokens without a role; older files call them `additional_special_tokens`."""
    given: Any = next((values[name] for name in _EXTRA if values.get(name)), ())
    entries: Sequence[Any] = list(given.values()) if isinstance(given, Mapping) else list(given)
    yield from entries


def _is_token(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, Mapping) and isinstance(value.get("content"), str))


def _token(entry: Any) -> AddedToken:
    """An added token of a JSON object; without the entry `special` it is not special."""
    flags = {name: bool(entry[name]) for name in _FLAGS if entry.get(name) is not None}
    return AddedToken(str(entry["content"]), **flags)


def _special(entry: Any) -> AddedToken:
    """A special token of a string or of a JSON object."""
    if isinstance(entry, str):
        return AddedToken(entry, special=True)
    return _token({**entry, "special": True})
