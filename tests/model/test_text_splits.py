"""A completion may be split where `text_splits` says so: the texts of both parts are the text of the whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models

from tests.conftest import REPOSITORY
from tests.model.tokenizer_examples import KINDS, write_example
from tirazh.model.text_splits import text_splits
from tirazh.model.tokenizer import Tokenizer, load_tokenizer

LLAMA = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
DECODERS = {
    "llama": decoders.Sequence(LLAMA),
    "gemma": decoders.Sequence(LLAMA[:3]),
    "metaspace": decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()]),
    "none": None,
    "strips the end": decoders.Sequence([*LLAMA[:3], decoders.Strip(" ", 1, 1)]),
    "replaces in the whole text": decoders.Sequence([decoders.Fuse(), decoders.Replace("ab", "c")]),
    "word ends": decoders.BPEDecoder("</w>"),
    "CTC": decoders.CTC(pad_token="<s>"),
}
NEVER = {"strips the end", "replaces in the whole text", "word ends", "CTC"}
PIECES = ["<unk>", "<s>", "</s>", "▁", "▁a", "a", "b", "▁b", "ab", "a</w>", "b</w>", "я", "##a", ".", "▁."]


def with_decoder(folder: Path, name: str, pieces: list[str]) -> Tokenizer:
    """A tokenizer of a few pieces and of 12 byte tokens."""
    names = [*pieces, *(f"<0x{byte:02X}>" for byte in [*b"\xd1\x8f\xe2\x82\xac\xf0\x9f", *range(0x60, 0x65)])]
    vocabulary = {piece: index for index, piece in enumerate(names)}
    rust = tokenizers.Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    decoder = DECODERS[name]
    if decoder is not None:
        rust.decoder = decoder
    rust.add_special_tokens(["<unk>", "<s>", "</s>"])
    folder.mkdir(exist_ok=True)
    rust.save(str(folder / "tokenizer.json"))
    return load_tokenizer(str(folder))


def trained(folder: Path, kind: str, seed: int) -> Tokenizer:
    return load_tokenizer(str(write_example(folder, kind, seed).folder))


@pytest.fixture(scope="module")
def tokenizers_by_name(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    root = tmp_path_factory.mktemp("tokenizers")
    found = {name: with_decoder(root / name, name, PIECES) for name in DECODERS}
    found |= {f"{name} without a": with_decoder(root / name, name, ["<unk>", "</s>", "b"]) for name in DECODERS}
    found |= {f"{kind} {seed}": trained(root / f"{kind}{seed}", kind, seed) for kind in KINDS for seed in range(3)}
    return found | {"embedded": load_tokenizer(str(REPOSITORY / "model/embedded"))}


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_the_texts_of_both_parts_are_the_text_of_the_whole(
    tokenizers_by_name: dict[str, Tokenizer], data: st.DataObject
) -> None:
    tokenizer = tokenizers_by_name[data.draw(st.sampled_from(sorted(tokenizers_by_name)))]
    splits_before = text_splits(tokenizer)
    some_ids = st.integers(0, min(tokenizer.size, 400) + 1)
    ids = data.draw(st.lists(some_ids, min_size=1, max_size=12))
    whole = tokenizer.decode_completion(ids)
    for index, token in enumerate(ids):
        if splits_before(token):
            parts = ids[:index], ids[index:]
            assert "".join(map(tokenizer.decode_completion, parts)) == whole


@pytest.mark.parametrize("name", ["llama", "gemma", "metaspace", "none", "embedded", "byte level 0"])
def test_completions_of_usual_tokenizers_split_before_a_letter(
    tokenizers_by_name: dict[str, Tokenizer], name: str
) -> None:
    tokenizer = tokenizers_by_name[name]
    assert all(map(text_splits(tokenizer), tokenizer.encode("b")))


@pytest.mark.parametrize("name", sorted(NEVER))
def test_a_decoder_that_looks_at_more_than_one_token_splits_nowhere(
    tokenizers_by_name: dict[str, Tokenizer], name: str
) -> None:
    tokenizer = tokenizers_by_name[name]
    assert not any(map(text_splits(tokenizer), range(tokenizer.size)))


def test_no_split_lies_inside_a_character(tokenizers_by_name: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers_by_name["llama"]
    ids = [tokenizer.rust.token_to_id(name) for name in ("<0xD1>", "<0x8F>")]
    assert tokenizer.decode_completion(ids) == "я"
    assert not any(map(text_splits(tokenizer), ids))
    byte_level = tokenizers_by_name["byte level 0"]
    first, second = (byte_level.rust.token_to_id(name) for name in ("Ñ", "ı"))  # the bytes D1 and 8F
    assert byte_level.decode_completion([first, second]) == "я"
    assert not text_splits(byte_level)(second)
