"""Writes a tokenizer so that transformers' AutoTokenizer and `load_tokenizer` open the same one.

`tokenizer.json` holds everything: the vocabulary, the added tokens, and what is put before a text.
`tokenizer_config.json` names the class that takes it as it is, and the special tokens by role.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from tirazh.model.convert import write_json
from tirazh.model.tokenizer import Tokenizer
from tirazh.model.tokenizer_files import read_settings

# Not needed beside tokenizer.json; kept for programs that read nothing else.
_VOCABULARY = ("vocab.json", "merges.txt")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def write_tokenizer(tokenizer: Tokenizer, tokenizer_dir: str, folder: Path, *, positions: int) -> None:
    """Write to `folder` the tokenizer that was loaded from `tokenizer_dir`.

    `positions` is the longest sequence of the model, in tokens. The first end token becomes the
    `eos_token`: it is the one after every text that the model was trained on.
    """
    source = Path(tokenizer_dir)
    settings, rust = read_settings(source), tokenizers.Tokenizer.from_str(tokenizer.rust.to_str())
    roles = {role: each.content for role, each in settings.named.items() if rust.token_to_id(each.content) is not None}
    ends = (("eos_token", tokenizer.end_token_id), ("pad_token", tokenizer.pad_token_id))
    roles |= {role: _name(tokenizer, token_id) for role, token_id in ends}
    known = {token.content for token in rust.get_added_tokens_decoder().values()}
    # As transformers and `load_tokenizer` would add them: they have ids of the vocabulary.
    rust.add_tokens([AddedToken(name, special=True) for name in dict.fromkeys(roles.values()) if name not in known])
    extra = [token.content for token in settings.extra]
    values: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": positions,
        "clean_up_tokenization_spaces": tokenizer.cleans_up,
        **({"extra_special_tokens": extra} if extra else {}),
        **roles,
        "added_tokens_decoder": {
            str(number): {"content": token.content} | {flag: getattr(token, flag) for flag in _FLAGS}
            for number, token in sorted(rust.get_added_tokens_decoder().items())
        },
    }
    rust.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", values)
    for name in _VOCABULARY:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def _name(tokenizer: Tokenizer, token_id: int) -> str:
    name: str | None = tokenizer.rust.id_to_token(token_id)
    assert name is not None, "ends and padding are tokens of the vocabulary"
    return name
