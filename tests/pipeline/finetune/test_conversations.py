"""Conversations as training data: what the assistant says is trained on, in the tokens that `generate` sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tirazh.errors import InputError, RequestError, RowError
from tirazh.jobs.settings import build_finetune_spec
from tirazh.model.checkpoints.directory import EMBEDDED_DIR
from tirazh.model.tokenizer import load_tokenizer
from tirazh.model.training.config import ROLE_COMPLETION
from tirazh.pipeline.finetune.conversations import ConversationMaker
from tirazh.pipeline.finetune.plan import plan_finetune

TOKENIZER = load_tokenizer(EMBEDDED_DIR, EMBEDDED_DIR)
MAKER = ConversationMaker(TOKENIZER, "messages", 1_000)
END = TOKENIZER.end_token_id
Message = dict[str, Any]


def says(role: str, content: str | None) -> Message:
    return {"role": role, "content": content}


def trained(tokens: list[int], roles: list[int]) -> list[int]:
    return [token for token, role in zip(tokens, roles, strict=True) if role == ROLE_COMPLETION]


words = st.lists(st.sampled_from(["Привет", "как", "дела?", "Yes,", "2 weeks.", "line\nbreak", "ё"]), min_size=1).map(
    " ".join
)


@given(st.lists(st.tuples(words, words), min_size=1, max_size=4), st.booleans())
def test_the_assistants_words_are_trained_on_in_the_tokens_of_generate(
    pairs: list[tuple[str, str]], more: bool
) -> None:
    """The tokens before each of its turns are those of the prompt that asks for it."""
    messages = [says(role, text) for ask, answer in pairs for role, text in (("user", ask), ("assistant", answer))]
    (document,) = MAKER.make([{"messages": [*messages, *([says("user", "and?")] if more else [])]}])
    assert not isinstance(document, RowError)
    tokens, roles = list(document.tokens), list(document.roles)
    ends = [*([TOKENIZER.encode("\n")] * (len(pairs) - 1)), [END]]
    expected = [
        id for (_, answer), end in zip(pairs, ends, strict=True) for id in [*TOKENIZER.encode(f" {answer}"), *end]
    ]
    assert trained(tokens, roles) == expected
    prompt = "".join(f"{each['role']}: {each['content']}\n" for each in messages[:-1]) + "assistant:"
    last = len(tokens) - len(TOKENIZER.encode(f" {pairs[-1][1]}")) - 1
    assert tokens[:last] == [*TOKENIZER.prefix_token_ids, *TOKENIZER.encode(prompt)]


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (None, "null"),
        ([], "empty"),
        ([says("user", "a")], "other"),
        ([says("robot", "a"), says("assistant", "b")], "other"),
        ([says("user", "a"), says("assistant", None)], "null"),
        ([says("user", "a"), says("assistant", " ")], "empty"),
        ([says("user", "a " * 2_000), says("assistant", "b")], "too long"),
    ],
)
def test_a_conversation_that_cannot_be_used_has_a_reason(messages: list[Message] | None, reason: str) -> None:
    (error,) = MAKER.make([{"messages": messages}])
    assert isinstance(error, RowError)
    assert getattr(error, "reason", None) == reason


def plan_of(folder: Path, column: Any, **settings: Any) -> Any:
    pq.write_table(pa.table({"messages": column}), folder / "in.parquet")
    named = {"input": folder / "in.parquet", "output": folder / "out", "messages_column": "messages"}
    return plan_finetune(build_finetune_spec(named | settings))


def test_a_plan_takes_a_column_of_messages_and_packs_whole_conversations(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, [[says("user", "a"), says("assistant", "b")]])
    assert plan.packing == "whole"
    assert isinstance(plan.documents(), ConversationMaker)
    assert plan.identity()["messages_column"] == "messages"


def test_other_columns_and_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must hold lists of messages"):
        plan_of(tmp_path, ["a text"])
    with pytest.raises(InputError, match=r"no column 'mesages' .*did you mean messages"):
        plan_of(tmp_path, [[says("user", "a")]], messages_column="mesages")
    with pytest.raises(RequestError, match="give --messages-column or --template, not both"):
        plan_of(tmp_path, [[says("user", "a")]], template="{{ text }}")
