"""Random tokenizer directories: every model of the library, with random normalisers, templates and added tokens.

The same seed gives the same directory on every machine.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

_WORDS = ("спорт", "экономика", "sport", "news", "the", "он", "a", "не", "ing", ".", ",", "1", "2", "ё", "it")
_LETTERS = sorted({letter for word in _WORDS for letter in word} | set("абвгдежзийклмнопрстуфхцчшщъыьэюя xyz"))
TEXTS = (
    *(
        "спорт",
        " спорт",
        "  он  не ",
        "The sport, it's news.",
        "СПОРТ ё e\u0301",
        "a\nb\tc",
        "",
        " ",
        "1 2  12",
        "xyz?",
    ),
    *("новости: экономика", "🏴 он", "sport.sport ,sport", "ｆｕｌｌ", "a" * 60),
)


def write_tokenizer(seed: int, folder: Path) -> None:
    """Write tokenizer.json, and tokenizer_config.json with the names of the special tokens."""
    rng = random.Random(seed)
    kind = rng.choice((_byte_level, _byte_fallback, _unigram, _word_piece, _word_level))
    tokenizer = kind(rng)
    named = {"eos_token": rng.choice(("</s>", "<|endoftext|>", "<end>"))}
    for role, name in (("bos_token", "<s>"), ("unk_token", "<unk>"), ("pad_token", "<pad>")):
        if role == "unk_token" or rng.random() < 0.6:
            named[role] = name
    tokenizer.add_special_tokens([*named.values()])
    for content in rng.sample(("новости:", "<tool>", "12", "it's"), rng.randrange(3)):
        flags = {flag: rng.random() < 0.3 for flag in ("lstrip", "rstrip", "single_word", "normalized")}
        tokenizer.add_tokens([AddedToken(content, special=False, **flags)])
    _add_template(rng, tokenizer, named)
    if rng.random() < 0.3:
        tokenizer.enable_truncation(5)
    if rng.random() < 0.3:
        tokenizer.enable_padding(length=9)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **named}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False), encoding="utf-8")


def _add_template(rng: random.Random, tokenizer: Tokenizer, named: dict[str, str]) -> None:
    """Put the first token before a text, and sometimes the end token behind it."""
    if "bos_token" not in named or rng.random() < 0.4:
        return
    begin, end = named["bos_token"], named["eos_token"]
    single = rng.choice((f"{begin} $A", f"{begin} $A {end}", f"$A {end}", f"{begin} {begin} $A"))
    tokens = [(name, tokenizer.token_to_id(name)) for name in {begin, end} if name in single]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=f"{single} $B", special_tokens=tokens)


def _normalizer(rng: random.Random) -> normalizers.Normalizer | None:
    choices = (normalizers.NFC(), normalizers.NFKC(), normalizers.Lowercase(), normalizers.NFD(), normalizers.Strip())
    picked = rng.sample(choices, rng.randrange(3))
    return normalizers.Sequence(list(picked)) if picked else None


def _merges(rng: random.Random, words: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A vocabulary of letters and of random merges of the words."""
    tokens = dict.fromkeys(letter for word in words for letter in word)
    merges = []
    for word in rng.sample(words, len(words) * 2 // 3):
        left = word[0]
        for letter in word[1:]:
            if (left, letter) not in merges:
                merges.append((left, letter))
                tokens[left + letter] = None
            left += letter
    return {token: number for number, token in enumerate(tokens)}, merges


def _byte_level(rng: random.Random) -> Tokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words = [piece for word in _WORDS for piece, _ in splitter.pre_tokenize_str(f" {word}")]
    vocabulary, merges = _merges(rng, words)
    for letter in letters:
        vocabulary.setdefault(letter, len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.normalizer = _normalizer(rng)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=rng.random() < 0.3)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _byte_fallback(rng: random.Random) -> Tokenizer:
    vocabulary, merges = _merges(rng, [f"▁{word}" for word in _WORDS])
    for name in ("<unk>", *(f"<0x{number:02X}>" for number in range(256))):
        vocabulary.setdefault(name, len(vocabulary))
    model = models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    return _metaspace(rng, Tokenizer(model))


def _unigram(rng: random.Random) -> Tokenizer:
    pieces = [("<unk>", 0.0), ("▁", -2.0), *((letter, -9.0) for letter in _LETTERS if letter != " ")]
    pieces += [(f"▁{word}" if rng.random() < 0.6 else word, -rng.uniform(1, 8)) for word in _WORDS if len(word) > 1]
    return _metaspace(rng, Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False)))


def _metaspace(rng: random.Random, tokenizer: Tokenizer) -> Tokenizer:
    scheme = rng.choice(("always", "first", "never"))
    if rng.random() < 0.5:
        tokenizer.normalizer = _normalizer(rng)
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=rng.random() < 0.5)
    else:  # as converted SentencePiece models have it
        steps = [normalizers.Replace(" ", "▁")] if scheme == "never" else [_prepend(), normalizers.Replace(" ", "▁")]
        tokenizer.normalizer = normalizers.Sequence(steps)
    strip = [] if scheme == "never" else [decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer


def _prepend() -> normalizers.Normalizer:
    return normalizers.Prepend("▁")


def _word_piece(rng: random.Random) -> Tokenizer:
    pieces = ["<unk>", *_LETTERS, *(f"##{letter}" for letter in _LETTERS), *_WORDS, *(f"##{word}" for word in _WORDS)]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>", max_input_chars_per_word=50))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=rng.random() < 0.5)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=rng.random() < 0.5)
    return tokenizer


def _word_level(rng: random.Random) -> Tokenizer:
    vocabulary = {word: number for number, word in enumerate(("<unk>", *_WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = _normalizer(rng)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer
