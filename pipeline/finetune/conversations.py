"""Conversations as training data: a column of messages, of which the assistant's turns are trained on.

A message is a line `role: content`, the form in which requests of OpenAI's Batch API become prompts, and that of the
embedded model's dialogues.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tirazh.errors import InputError, RowError, did_you_mean
from tirazh.model.training.config import ROLE_COMPLETION, ROLE_PROMPT
from tirazh.pipeline.column_values import BrokenText
from tirazh.pipeline.finetune.corpus import Document, OneColumnMaker, Row
from tirazh.pipeline.finetune.row_account import DAMAGED, EMPTY, NULL, OTHER, TOO_LONG, UnusableRow
from tirazh.pipeline.input.footers import is_string

ASSISTANT = "assistant"
ROLES = ("system", "user", ASSISTANT)


@dataclass(frozen=True, slots=True)
class ConversationMaker(OneColumnMaker):
    """Documents of conversations; the loss is computed on what the assistant says, and on what ends its turn.

    A turn of the assistant ends with the newline before the next message, the last one with the end token. Messages
    after the last turn of the assistant are left out. A conversation of more than `most_tokens` tokens cannot be used.
    """

    most_tokens: int

    def make(self, rows: Sequence[Row]) -> list[Document | RowError]:
        return [self._make(row[self.column]) for row in rows]

    def _make(self, messages: Any) -> Document | RowError:
        try:
            turns = [
                _turn(message, self.column, number) for number, message in enumerate(_listed(messages, self.column))
            ]
        except RowError as error:
            return error
        last = max((number for number, (role, _) in enumerate(turns) if role == ASSISTANT), default=None)
        if last is None:
            return UnusableRow(f"column {self.column!r} has no message of the assistant", OTHER)
        tokens = list(self.tokenizer.prefix_token_ids)
        roles = [ROLE_PROMPT] * len(tokens)

        def add(ids: Sequence[int], role: int) -> None:
            tokens.extend(ids)
            roles.extend([role] * len(ids))

        before = ""  # the messages since the last turn of the assistant
        for number, (role, content) in enumerate(turns[: last + 1]):
            if role != ASSISTANT:
                before += f"{role}: {content}\n"
                continue
            add(self.tokenizer.encode(f"{before}{ASSISTANT}:"), ROLE_PROMPT)
            add(self.tokenizer.encode(f" {content}"), ROLE_COMPLETION)
            add([self.tokenizer.end_token_id] if number == last else self.tokenizer.encode("\n"), ROLE_COMPLETION)
            before = ""
        if len(tokens) > self.most_tokens:
            return UnusableRow(f"the conversation has {len(tokens)} tokens, and {self.most_tokens} fit", TOO_LONG)
        return Document(tokens, roles)


def check_messages_column(schema: pa.Schema, name: str) -> None:
    """Raise InputError unless column `name` exists and holds lists of messages with a role and a content."""
    if name not in schema.names:
        hint = did_you_mean(name, schema.names) or f"; the columns are {', '.join(schema.names)}"
        raise InputError(f"the input has no column {name!r} (--messages-column){hint}")
    kind = schema.field(name).type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    item = kind.value_type if is_list else None
    fields = {field.name: field.type for field in item} if item is not None and pa.types.is_struct(item) else {}
    if not all(each in fields and is_string(fields[each]) for each in ("role", "content")):
        raise InputError(
            f"column {name!r} (--messages-column) must hold lists of messages with the strings role and content, not "
            f"{kind}"
        )


def _listed(messages: Any, column: str) -> Sequence[Any]:
    if isinstance(messages, BrokenText):
        raise UnusableRow(f"column {column!r} {messages.reason}", DAMAGED)
    if messages is None:
        raise UnusableRow(f"column {column!r} is null", NULL)
    if not messages:
        raise UnusableRow(f"column {column!r} is empty", EMPTY)
    return list(messages)


def _turn(message: Any, column: str, number: int) -> tuple[str, str]:
    """Return role and content of a message, the content without white space around it. Raises UnusableRow."""
    place = f"column {column!r}, message {number + 1}:"
    role = message.get("role") if isinstance(message, dict) else None
    content = message.get("content") if isinstance(message, dict) else None
    if role not in ROLES:
        raise UnusableRow(f"{place} the role {role!r} is none of {', '.join(ROLES)}", OTHER)
    if not isinstance(content, str):
        raise UnusableRow(f"{place} the content is null", NULL)
    if not content.strip():
        raise UnusableRow(f"{place} the content is empty", EMPTY)
    return str(role), content.strip()
