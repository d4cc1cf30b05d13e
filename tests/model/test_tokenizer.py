"""The tokenizer: lossless byte-level BPE, no control tokens from user text, one sentence for damaged files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, processors

from tests.model.checkpoints.samples import write_json
from tirazh.errors import CheckpointError
from tirazh.model.tokenizer import Tokenizer, load_tokenizer

CONTROL = ["<pad>", "<s>", "</s>", "<unk>", "<mask>"]
ODD_TEXTS = [
    "",
    " ",
    "  два  пробела\t\n\r\n конец ",
    "Привет, мир! Ёжик — «ёлки», №5…",
    "e\u0301 é \u200b\u200d\ufeff \u202e наоборот",
    "👨‍👩‍👧‍👦 🇷🇺 🏳️‍🌈",
    "漢字 हिन्दी العربية ไทย",
    "\x00\x01\x7f\x85\xa0",
    "I'll they've DON'T 3.14e-10 x_y=z;",
    "\U0001f9ff" * 50,
]


def write_bpe(folder: Path, *, merges: tuple[str, ...] = (), extra: tuple[str, ...] = (), **settings: Any) -> Path:
    """Write a byte-level vocabulary like ru-gpts': control tokens first, then bytes, then merges, then `extra`."""
    folder.mkdir(exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*CONTROL, *alphabet, *(merge.replace(" ", "") for merge in merges), *extra]
    write_json(folder / "vocab.json", {name: index for index, name in enumerate(names)})
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    if settings:
        write_json(folder / "tokenizer_config.json", settings)
    return folder


@pytest.fixture
def tiny(tmp_path: Path) -> Tokenizer:
    return load_tokenizer(str(write_bpe(tmp_path / "bpe", merges=("h e", "l l", "he ll"))))


@pytest.fixture(scope="session")
def rugpt3(shared_dir: Path) -> Tokenizer:
    return load_tokenizer(str(shared_dir / "data" / "rugpt3_tokenizer"))


def test_merges_are_applied_in_order(tiny: Tokenizer) -> None:
    assert [tiny.rust.id_to_token(token) for token in tiny.encode("hello hell")] == ["hell", "o", "Ġ", "hell"]


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_any_encoded_text_decodes_to_itself(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    tokenizer = load_tokenizer(str(write_bpe(tmp_path_factory.getbasetemp() / "any", merges=("h e",))))
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("text", [*CONTROL, "<s>Привет</s>", "a <pad><pad> b", "<|endoftext|>", "x</s>\n<s>y"])
def test_names_of_control_tokens_are_encoded_as_text(tmp_path: Path, text: str) -> None:
    tokenizer = load_tokenizer(str(write_bpe(tmp_path / "bpe", extra=("<|endoftext|>",))))
    ids = tokenizer.encode(text)
    assert tokenizer.control_ids.isdisjoint(ids)
    assert tokenizer.decode(ids) == text


def test_encode_many_equals_encode(tiny: Tokenizer) -> None:
    assert tiny.encode_many(ODD_TEXTS) == [tiny.encode(text) for text in ODD_TEXTS]
    assert tiny.encode_many([]) == []


def test_special_ids_are_found_by_name(tmp_path: Path) -> None:
    plain = load_tokenizer(str(write_bpe(tmp_path / "a")))
    assert (plain.size, plain.end_token_ids, plain.pad_token_id) == (5 + 256, (2,), 0)
    xl = load_tokenizer(str(write_bpe(tmp_path / "b", extra=("<|endoftext|>",))))
    assert (xl.size, xl.end_token_ids, xl.end_token_id) == (5 + 256 + 1, (5 + 256,), 5 + 256)


def test_the_config_gives_the_end_token_of_an_unusual_vocabulary(tmp_path: Path) -> None:
    folder = write_bpe(tmp_path / "a", extra=("<END>", "[PAD]"))
    vocab = json.loads((folder / "vocab.json").read_text())
    for name in ("<pad>", "</s>"):
        vocab[name.upper()] = vocab.pop(name)
    write_json(folder / "vocab.json", vocab)
    write_json(folder / "config.json", {"eos_token_id": [7, 8]})
    assert load_tokenizer(str(folder)).end_token_ids == (7, 8)
    write_json(folder / "tokenizer_config.json", {"eos_token": {"content": "<END>"}, "pad_token": "[PAD]"})
    tokenizer = load_tokenizer(str(folder))
    assert (tokenizer.end_token_ids, tokenizer.pad_token_id) == ((261, 7, 8), 262)


def test_decoding_skips_control_tokens_and_padded_ids(tiny: Tokenizer) -> None:
    ids = [1, *tiny.encode("hello"), 2, 0, 0, tiny.size, tiny.size + 6]
    assert tiny.decode(ids) == "hello"


def test_special_tokens_added_to_the_vocabulary_are_control_tokens(tmp_path: Path) -> None:
    added = {"261": {"content": "<|user|>", "special": True}, "262": {"content": "<|bot|>", "special": True}}
    tokenizer = load_tokenizer(str(write_bpe(tmp_path / "bpe", added_tokens_decoder=added)))
    assert tokenizer.size == 263
    assert tokenizer.decode([261, *tokenizer.encode("да"), 262]) == "да"
    assert tokenizer.control_ids.isdisjoint(tokenizer.encode("<|user|> <|bot|>"))


def test_the_name_of_a_control_token_is_merged_like_other_text(tmp_path: Path) -> None:
    added = {"262": {"content": "<|user|>", "special": True}}
    tokenizer = load_tokenizer(str(write_bpe(tmp_path / "bpe", merges=("< |",), added_tokens_decoder=added)))
    assert [tokenizer.rust.id_to_token(token) for token in tokenizer.encode("<|user|>")] == ["<|", *"user|>"]


def test_tokenizer_json_is_preferred_and_its_template_becomes_the_prefix(tmp_path: Path) -> None:
    rust = tokenizers.Tokenizer(models.BPE({"<s>": 0, "</s>": 1, "a": 2, "b": 3}, []))
    rust.add_special_tokens(["<s>", "</s>"])
    rust.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    rust.decoder = decoders.Fuse()
    rust.enable_padding(length=9)
    rust.enable_truncation(1)
    rust.save(str(write_bpe(tmp_path / "m") / "tokenizer.json"))
    tokenizer = load_tokenizer(str(tmp_path / "m"))
    assert tokenizer.encode("abab") == [2, 3, 2, 3]
    assert (tokenizer.prefix_token_ids, tokenizer.size, tokenizer.end_token_ids) == ((0,), 4, (1,))


def test_a_unigram_model_does_not_match_control_names(tmp_path: Path) -> None:
    letters = [(letter, -5.0) for letter in "ab</s>"]
    rust = tokenizers.Tokenizer(models.Unigram([("<unk>", 0.0), ("</s>", -1.0), *dict(letters).items()], 0, False))
    rust.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(str(tmp_path))
    assert rust.encode("a</s>b</s>").ids.count(1) == 2
    ids = tokenizer.encode("a</s>b</s>")
    assert [rust.id_to_token(token) for token in ids] == list("a</s>b</s>")


def test_the_tokenizer_imports_neither_torch_nor_transformers(tmp_path: Path) -> None:
    folder = write_bpe(tmp_path / "bpe")
    code = (
        "import sys; from tirazh.model.tokenizer import load_tokenizer; load_tokenizer(sys.argv[1]).encode('да')\n"
        "print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("vocab.json", None, "neither tokenizer.json nor vocab.json with merges.txt"),
        ("merges.txt", None, "neither tokenizer.json nor vocab.json with merges.txt"),
        ("vocab.json", '{"a": 0', "cannot be read"),
        ("vocab.json", '{"a": 0}', "cannot be read"),
        ("merges.txt", "#version: 0.2\nq w e\n", "cannot be read"),
        ("tokenizer.json", "{}", "cannot be read"),
        ("tokenizer.json", "not json", "cannot be read"),
        ("tokenizer_config.json", "[", "tokenizer_config.json is not readable JSON"),
        ("added_tokens.json", '{"<|user|>": 900}', "gives <|user|> the id 900, but its vocabulary makes it 262"),
    ],
)
def test_a_damaged_tokenizer_gives_one_sentence(tmp_path: Path, file: str, content: str | None, words: str) -> None:
    folder = write_bpe(tmp_path / "bpe", merges=("q w",))
    (folder / file).unlink(missing_ok=True)
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(CheckpointError) as caught:
        load_tokenizer(str(folder))
    assert words in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "--tokenizer" in str(caught.value) or ".json" in str(caught.value)


def test_a_missing_tokenizer_names_the_flag(tmp_path: Path) -> None:
    for directory in (None, str(tmp_path / "nowhere")):
        with pytest.raises(CheckpointError, match="--tokenizer"):
            load_tokenizer(directory)


def test_a_vocabulary_without_an_end_token_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(CheckpointError, match="has no end-of-text token"):
        load_tokenizer(str(tmp_path))


def test_the_published_rugpt3_tokenizer_has_its_special_ids(rugpt3: Tokenizer) -> None:
    assert (rugpt3.size, rugpt3.end_token_ids, rugpt3.pad_token_id) == (50257, (2,), 0)
    assert rugpt3.control_ids == {0, 1, 2, 3, 4}
    assert rugpt3.decode([37954, 16, 2309, 5, 50257, 50263]) == "Привет, мир!"


@settings(max_examples=300, deadline=None)
@given(text=st.text())
def test_the_published_tokenizer_decodes_any_text_it_encodes(rugpt3: Tokenizer, text: str) -> None:
    assert rugpt3.decode(rugpt3.encode(text)) == text


def test_the_published_tokenizer_agrees_with_transformers(shared_dir: Path, news_dir: Path, rugpt3: Tokenizer) -> None:
    from transformers import GPT2Tokenizer

    theirs = GPT2Tokenizer.from_pretrained(str(shared_dir / "data" / "rugpt3_tokenizer"))
    news = polars.read_parquet(news_dir / "ru_news_nplus1.test.parquet")["text"].head(200).to_list()
    texts = [*ODD_TEXTS, *news]
    assert rugpt3.encode_many(texts) == theirs(texts)["input_ids"]
    assert [rugpt3.decode(ids) for ids in rugpt3.encode_many(texts)] == texts


@pytest.mark.parametrize("special", [False, True])
def test_an_added_token_is_one_token_and_visible_unless_it_is_special(tmp_path: Path, special: bool) -> None:
    added = {"261": {"content": "[TAG]", "special": special, "normalized": True}}
    tokenizer = load_tokenizer(str(write_bpe(tmp_path / "bpe", added_tokens_decoder=added)))
    assert (261 in tokenizer.encode("x[TAG]y")) is not special
    assert tokenizer.decode([261, *tokenizer.encode("да")]) == ("да" if special else "[TAG]да")


def test_special_tokens_map_counts_only_without_added_tokens_decoder(tmp_path: Path) -> None:
    folder = write_bpe(tmp_path / "bpe", eos_token="<s>")
    write_json(folder / "special_tokens_map.json", {"eos_token": {"content": "<mask>"}})
    write_json(folder / "config.json", {"model_type": "gpt2"})
    assert load_tokenizer(str(folder)).end_token_ids == (4,)
    write_bpe(folder, eos_token="<s>", added_tokens_decoder={})
    assert load_tokenizer(str(folder)).end_token_ids == (1,)


@pytest.mark.parametrize(
    ("generation", "config", "ends"),
    [(None, None, (2,)), (1, 4, (2, 1)), ([1, 4], None, (2, 1, 4)), (None, [4, 2], (2, 4)), (9_999, None, (2,))],
)
def test_the_ends_are_those_of_the_tokenizer_and_of_the_generation_config(
    tmp_path: Path, generation: Any, config: Any, ends: tuple[int, ...]
) -> None:
    folder = write_bpe(tmp_path / "bpe", extra=("<|endoftext|>",), eos_token="</s>")
    write_json(folder / "config.json", {"model_type": "gpt2", "eos_token_id": config})
    if generation is not None:
        write_json(folder / "generation_config.json", {"eos_token_id": generation})
    assert load_tokenizer(str(folder)).end_token_ids == ends


def test_the_end_tokens_of_a_model_count_with_the_tokenizer_of_another_directory(tmp_path: Path) -> None:
    folder, model = write_bpe(tmp_path / "bpe", eos_token="</s>"), tmp_path / "model"
    model.mkdir()
    write_json(model / "config.json", {"model_type": "gpt2", "eos_token_id": 4})
    assert load_tokenizer(str(folder), str(model)).end_token_ids == (2, 4)


def test_a_bos_token_is_the_prefix_where_the_settings_ask_for_it(tmp_path: Path) -> None:
    assert load_tokenizer(str(write_bpe(tmp_path / "a", bos_token="<s>"))).prefix_token_ids == ()
    folder = write_bpe(tmp_path / "b", bos_token="<s>", add_bos_token=True)
    assert load_tokenizer(str(folder)).prefix_token_ids == (1,)


def test_the_end_token_of_a_template_is_not_put_before_a_prompt(tmp_path: Path) -> None:
    rust = tokenizers.Tokenizer(models.BPE({"<s>": 0, "</s>": 1, "a": 2}, []))
    rust.add_special_tokens(["<s>", "</s>"])
    rust.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    rust.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(str(tmp_path)).prefix_token_ids == (0,)
