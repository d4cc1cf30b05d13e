"""Writes a tokenizer so that transformers' AutoTokenizer and `load_tokenizer` open the same one.

`tokenizer.json` holds everything: the vocabulary, the added tokens, and what is put before a text.
`tokenizer_config.json` names the class that takes it as it is, and the special tokens by role.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

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
    settings, rust = read_settings(source), tokenizer.rust
    roles = {
        role: token.content for role, token in settings.named.items() if rust.token_to_id(token.content) is not None
    }
    roles |= {
        "eos_token": _name(tokenizer, tokenizer.end_token_id),
        "pad_token": _name(tokenizer, tokenizer.pad_token_id),
    }
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
