"""A written tokenizer is the same for tirazh, and AutoTokenizer opens it with the right ends and padding."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.model.test_tokenizer import write_bpe
from tirazh.model.tokenizer import Tokenizer, load_tokenizer
from tirazh.model.tokenizer_export import write_tokenizer

TEXTS = ["Новости: банк поднял ставку.", "a <pad> b", "<s>Привет</s>", "<|endoftext|>", " two  spaces\n", "🙂"]


def export(source: Path, folder: Path) -> tuple[Tokenizer, Tokenizer]:
    """Write the tokenizer of `source` to `folder`. Returns both, as they are loaded for a model of GPT-2's type."""
    before = load_tokenizer(str(source))
    folder.mkdir()
    write_tokenizer(before, str(source), folder, positions=512)
    ends = {"eos_token_id": list(before.end_token_ids)}
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    (folder / "generation_config.json").write_text(json.dumps(ends))
    return before, load_tokenizer(str(folder))


def check_same(before: Tokenizer, after: Tokenizer) -> None:
    for text in TEXTS:
        ids = before.encode(text)
        assert after.encode(text) == ids
        assert after.decode(ids) == before.decode(ids)
    assert (after.end_token_ids, after.pad_token_id) == (before.end_token_ids, before.pad_token_id)
    assert (after.size, after.control_ids, after.prefix_token_ids) == (
        before.size,
        before.control_ids,
        before.prefix_token_ids,
    )
    marked = [each.marked({"\ue000": "</s>"}).encode("a \ue000b") for each in (before, after)]
    assert marked[0] == marked[1]


def check_automatic(folder: Path, tokenizer: Tokenizer, texts: list[str]) -> None:
    from transformers import AutoTokenizer

    opened = AutoTokenizer.from_pretrained(folder)
    assert [opened(text, add_special_tokens=False)["input_ids"] for text in texts] == tokenizer.encode_many(texts)
    assert (opened.eos_token_id, opened.pad_token_id) == (tokenizer.end_token_id, tokenizer.pad_token_id)
    assert opened.model_max_length == 512


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"eos_token": "</s>", "bos_token": "<s>", "pad_token": "</s>"},
        {"add_bos_token": True, "bos_token": "<s>"},
        {"add_prefix_space": True, "additional_special_tokens": ["<mask>"]},
    ],
)
def test_two_files_of_bpe_become_one_tokenizer(settings: dict[str, object], tmp_path: Path) -> None:
    source = write_bpe(tmp_path / "source", merges=("a b",), extra=("ab",), **settings)
    before, after = export(source, tmp_path / "out")
    check_same(before, after)
    check_automatic(tmp_path / "out", before, [TEXTS[0], *TEXTS[4:]])
    kept = (tmp_path / "source" / "vocab.json").read_bytes()
    assert (tmp_path / "out" / "vocab.json").read_bytes() == kept


def test_older_files_beside_the_vocabulary_are_not_needed(tmp_path: Path) -> None:
    """Their roles go into tokenizer_config.json."""
    source = write_bpe(tmp_path / "source")
    (source / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<s>", "unk_token": "<unk>"}))
    before, after = export(source, tmp_path / "out")
    check_same(before, after)
    assert not (tmp_path / "out" / "special_tokens_map.json").exists()
    values = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert (values["eos_token"], values["pad_token"], values["unk_token"]) == ("<s>", "<pad>", "<unk>")


def test_a_written_tokenizer_can_be_written_again(tmp_path: Path) -> None:
    export(write_bpe(tmp_path / "source"), tmp_path / "first")
    before, after = export(tmp_path / "first", tmp_path / "second")
    check_same(before, after)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_the_published_tokenizer_is_written_as_it_is(shared_dir: Path, tmp_path: Path) -> None:
    before, after = export(shared_dir / "data" / "rugpt3_tokenizer", tmp_path / "out")
    check_same(before, after)
    check_automatic(tmp_path / "out", before, [TEXTS[0], *TEXTS[4:]])
