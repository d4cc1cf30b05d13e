"""Small tokenizers of every kind with random settings, written as a model's directory holds them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXTS = [
    "Новости экономики и спорта: банк поднял ставку, команда выиграла матч.",
    "Тема: спорт спортивная жизнь, экономика и культура",
    "economics and sport news, the team won a match in New York City",
    "a b c d e f g 1 2 3 4 5 6 7 8 9 0 . , : ; ! ? - ( ) « » \n\n",
]
SPECIAL = ("<s>", "</s>", "<unk>", "<|user|>", "<|end|>")


@dataclass(frozen=True)
class Example:
    """A tokenizer in `folder`; `puts_end`: its template appends an end token to a text."""

    folder: Path
    kind: str
    puts_end: bool


def byte_level(pick: random.Random) -> tuple[tokenizers.Tokenizer, Any]:
    rust = tokenizers.Tokenizer(models.BPE())
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=pick.random() < 0.3)
    rust.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options = {"initial_alphabet": alphabet, "vocab_size": 320, "special_tokens": list(SPECIAL)}
    return rust, trainers.BpeTrainer(show_progress=False, **options)


def metaspace_bpe(pick: random.Random) -> tuple[tokenizers.Tokenizer, Any]:
    rust = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=pick.random() < 0.5))
    scheme = pick.choice(["always", "first", "never"])
    rust.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=pick.random() < 0.5)
    rust.decoder = decoders.Metaspace(prepend_scheme=scheme)
    return rust, trainers.BpeTrainer(show_progress=False, vocab_size=200, special_tokens=list(SPECIAL))


def old_llama(pick: random.Random) -> tuple[tokenizers.Tokenizer, Any]:
    """Spaces by normalisation, without words: tokens may cross spaces."""
    rust = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    rust.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    rust.decoder = decoders.Sequence(steps)
    return rust, trainers.BpeTrainer(show_progress=False, vocab_size=200, special_tokens=list(SPECIAL))


def word_piece(pick: random.Random) -> tuple[tokenizers.Tokenizer, Any]:
    rust = tokenizers.Tokenizer(models.WordPiece(unk_token="<unk>"))
    rust.normalizer = normalizers.BertNormalizer(lowercase=pick.random() < 0.5)
    rust.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    rust.decoder = decoders.WordPiece(cleanup=pick.random() < 0.5)
    return rust, trainers.WordPieceTrainer(show_progress=False, vocab_size=200, special_tokens=list(SPECIAL))


def unigram(pick: random.Random) -> tuple[tokenizers.Tokenizer, Any]:
    rust = tokenizers.Tokenizer(models.Unigram())
    rust.normalizer = pick.choice([normalizers.NFKC(), normalizers.NFC()])
    rust.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=pick.choice(["always", "first"]))
    rust.decoder = decoders.Metaspace()
    options: dict[str, Any] = {"vocab_size": 150, "special_tokens": list(SPECIAL), "unk_token": "<unk>"}
    return rust, trainers.UnigramTrainer(show_progress=False, **options)


KINDS: dict[str, Callable[[random.Random], tuple[tokenizers.Tokenizer, Any]]] = {
    "byte level": byte_level,
    "metaspace": metaspace_bpe,
    "old llama": old_llama,
    "word piece": word_piece,
    "unigram": unigram,
}


def write_example(folder: Path, kind: str, seed: int) -> Example:
    """Train a tokenizer of a kind with the random settings of a seed, and write its files."""
    pick = random.Random(seed)
    rust, trainer = KINDS[kind](pick)
    rust.train_from_iterator(TEXTS, trainer)
    for name in ("<|user|>", "<|end|>"):
        flags = {flag: pick.random() < 0.3 for flag in ("lstrip", "rstrip", "normalized")}
        if kind == "old llama":
            flags["normalized"] = False  # its normaliser hides such a token inside of a text
        rust.add_special_tokens([AddedToken(name, **flags)])
    rust.add_tokens([AddedToken("[TAG]", normalized=pick.random() < 0.5, rstrip=pick.random() < 0.3)])
    template = pick.choice(["", "<s> $A", "<s> $A </s>"])
    if template:
        ids = [(name, rust.token_to_id(name)) for name in ("<s>", "</s>") if name in template]
        rust.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    folder.mkdir(parents=True, exist_ok=True)
    rust.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "unk_token": "<unk>"}
    config |= {"clean_up_tokenization_spaces": pick.random() < 0.5}
    if pick.random() < 0.5:
        config["additional_special_tokens"] = ["<|user|>", "<|new|>"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return Example(folder, kind, puts_end="</s>" in template)
