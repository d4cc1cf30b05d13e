"""Malformed tokenizer files. The Rust library panics on some; their fields may hold any value."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.fuzz.ending import attempt, refusal
from tests.fuzz.models import DEEP, JSON_FILES
from tests.fuzz.mutations import mutants
from tirazh.model.tokenizer import load_tokenizer

TOKENIZERS = {
    **{
        f"tokenizer.json: {name}": ("tokenizer.json", data)
        for name, data in JSON_FILES.items()
        if name != "an empty file"
    },
    "an empty model": ("tokenizer.json", b'{"model": {"type": "BPE", "vocab": {}, "merges": []}}'),
    "an unknown model": ("tokenizer.json", b'{"model": {"type": "GPT9"}}'),
    "an id of 32 bits": ("tokenizer.json", b'{"model": {"type": "BPE", "vocab": {"a": 4294967295}, "merges": []}}'),
    "a negative id": ("tokenizer.json", b'{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}'),
    "a merge of unknown tokens": (
        "tokenizer.json",
        b'{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["x y"]}}',
    ),
    "a bad pattern": (
        "tokenizer.json",
        b'{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "pre_tokenizer": {"type": "Split", "pattern": '
        b'{"Regex": "(((("}, "behavior": "Isolated", "invert": false}}',
    ),
}
SIDE_FILES = {
    "added: a list": ("added_tokens.json", b"[1]"),
    "added: ids that are strings": ("added_tokens.json", b'{"a": "b"}'),
    "added: a null id": ("added_tokens.json", b'{"a": null}'),
    "added: a huge id": ("added_tokens.json", b'{"a": 1000000000000}'),
    "added: a negative id": ("added_tokens.json", b'{"a": -5}'),
    "config: added tokens in a list": ("tokenizer_config.json", b'{"added_tokens_decoder": [1]}'),
    "config: an added token without content": ("tokenizer_config.json", b'{"added_tokens_decoder": {"1": {}}}'),
    "config: an added token whose id is not a number": (
        "tokenizer_config.json",
        b'{"added_tokens_decoder": {"x": {"content": "a"}}}',
    ),
    "config: an added token that is a string": ("tokenizer_config.json", b'{"added_tokens_decoder": {"1": "a"}}'),
    "config: deep lists": ("tokenizer_config.json", DEEP.encode()),
    "vocab: a list": ("vocab.json", b"[]"),
    "vocab: truncated": ("vocab.json", b'{"a": 0,'),
    "vocab: empty": ("vocab.json", b"{}"),
    "vocab: ids that are strings": ("vocab.json", b'{"a": "b"}'),
    "vocab: no end-of-text token": ("vocab.json", b'{"a": 0, "b": 1}'),
    "merges: binary": ("merges.txt", b"\xff\xfe\x00"),
    "merges: three tokens in a merge": ("merges.txt", b"#version: 0.2\na b c\n"),
    "merges: unknown tokens": ("merges.txt", b"#version: 0.2\nq w\n"),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_malformed_tokenizer_is_refused(name: str, tiny_model: Path, tmp_path: Path) -> None:
    file, content = TOKENIZERS[name]
    folder = shutil.copytree(tiny_model, tmp_path / "tokenizer")
    (folder / file).write_bytes(content)
    refusal("tokenizers", content, lambda: load_tokenizer(str(folder)).encode("abc"))


@pytest.mark.parametrize("name", SIDE_FILES)
def test_a_malformed_vocab_merges_or_side_file_works_or_is_refused(name: str, tmp_path: Path) -> None:
    file, content = SIDE_FILES[name]
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    (tmp_path / file).write_bytes(content)
    attempt("tokenizers", (file, content), lambda: load_tokenizer(str(tmp_path)).encode("ab"))


@pytest.mark.parametrize(
    "value", ["null", '"x"', "-1", "1e99", "[]", '["a"]', "[null]", "{}", "NaN", "true", "99999999999"]
)
def test_an_end_token_of_a_wrong_type_works_or_is_refused(value: str, tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / "config.json").write_text(f'{{"eos_token_id": {value}}}')
    attempt("tokenizers", value, lambda: load_tokenizer(str(tmp_path)).encode("ab"))


def test_a_randomly_damaged_tokenizer_works_or_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    good = (tiny_model / "tokenizer.json").read_bytes()
    for _, content in mutants(good, count=100, seed=3):
        (tmp_path / "tokenizer.json").write_bytes(content)
        attempt("tokenizers", content, lambda: load_tokenizer(str(tmp_path)).encode("abc день"))
