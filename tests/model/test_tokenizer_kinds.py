"""Random tokenizers of every kind give the ids and texts that transformers gives."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.model.tokenizer_examples import KINDS, SPECIAL, Example, write_example
from tirazh.model.tokenizer import Tokenizer, load_tokenizer

WORDS = [
    "спорт",
    " New York",
    "экономика",
    "[TAG]",
    " ",
    "\n",
    "x7",
    "«é»",
    "漢",
    ".",
    " it's",
    "ЁЖ",
    "e\u0301",
    "☃",
    "▁",
]
texts = st.lists(st.sampled_from(WORDS), max_size=8).map("".join)
SEEDS = range(3)


@pytest.fixture(scope="module", params=[(kind, seed) for kind in KINDS for seed in SEEDS], ids=str)
def example(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Example:
    kind, seed = request.param
    return write_example(tmp_path_factory.mktemp("tokenizer"), kind, seed)


@pytest.fixture(scope="module")
def ours(example: Example) -> Tokenizer:
    return load_tokenizer(str(example.folder))


@pytest.fixture(scope="module")
def theirs(example: Example) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(example.folder))


@settings(max_examples=15, deadline=None)
@given(text=texts)
def test_a_prompt_has_transformers_ids(example: Example, ours: Tokenizer, theirs: Any, text: str) -> None:
    right = theirs(text).input_ids
    right = right[:-1] if example.puts_end else right  # a prompt goes on, so no end token follows it
    assert [*ours.prefix_token_ids, *ours.encode(text)] == right


@settings(max_examples=15, deadline=None)
@given(text=texts)
def test_decoded_text_is_transformers(ours: Tokenizer, theirs: Any, text: str) -> None:
    ids = theirs(text).input_ids
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


@settings(max_examples=15, deadline=None)
@given(parts=st.lists(st.sampled_from([*WORDS, *SPECIAL]), max_size=8))
def test_marks_are_encoded_as_transformers_encodes_control_tokens(
    ours: Tokenizer, theirs: Any, parts: list[str]
) -> None:
    marks = {chr(0x10E000 + index): name for index, name in enumerate(SPECIAL)}
    by_name = {name: mark for mark, name in marks.items()}
    marked = "".join(by_name.get(part, part) for part in parts)
    assert ours.marked(marks).encode(marked) == theirs("".join(parts), add_special_tokens=False).input_ids


@settings(max_examples=15, deadline=None)
@given(prompt=texts, completion=st.lists(st.integers(5, 140), max_size=6))
def test_a_completion_is_what_the_whole_text_has_more_than_the_prompt(
    ours: Tokenizer, theirs: Any, prompt: str, completion: list[int]
) -> None:
    start = theirs(prompt + " спорт", add_special_tokens=False).input_ids
    before = theirs.decode(start, skip_special_tokens=True)
    assume(before)
    completion = [token for token in completion if token < ours.size]
    whole = theirs.decode([*start, *completion], skip_special_tokens=True)
    assert before + ours.decode_completion(completion) == whole


def test_names_of_special_tokens_in_data_are_no_control_tokens(ours: Tokenizer) -> None:
    assert ours.control_ids.isdisjoint(ours.encode("спорт<|user|> x</s><s>"))
