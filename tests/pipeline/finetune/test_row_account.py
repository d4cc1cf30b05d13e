"""The account of rows that a training skips or cuts."""

from __future__ import annotations

import pytest

from tirazh.errors import RowError
from tirazh.pipeline.finetune.row_account import RowAccount, UnusableRow, cut_text, reason_of, skipped_text


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UnusableRow("'abroad' is none of the labels a, b", "unknown label"), "unknown label"),
        (RowError("column 'text' is null"), "null"),
        (RowError("column 'text' is empty"), "empty"),
        (RowError("the prompt has 4802 tokens; at most 1024 fit"), "too long"),
        (RowError("prompt and completion have 60 + 9 tokens, and 64 fit"), "too long"),
        (RowError("column 'text' has 90000 characters, too many for 64 tokens"), "too long"),
        (RowError("the row contains all private-use characters"), "other"),
    ],
)
def test_errors_of_rows_have_a_few_kinds(error: RowError, reason: str) -> None:
    assert reason_of(error) == reason


def test_the_account_is_told_in_one_line_with_the_first_row_of_all() -> None:
    account = RowAccount(rows=9)
    for row, error in enumerate((RowError("column 'a' is null"), UnusableRow("'x' is none", "unknown label")) * 2, 3):
        account.skip(error, row=row, place="/in.parquet")
    for tokens in (0, 1_000, 802):
        account.cut(tokens)
    facts = account.facts()
    assert skipped_text(facts) == ("4: null 2, unknown label 2; the first: row 3 (in /in.parquet): column 'a' is null")
    assert facts["skipped_reasons"]["unknown label"] == {"rows": 2, "first": "row 4 (in /in.parquet): 'x' is none"}
    assert cut_text(facts) == "2 texts are too long: 1,802 tokens cut off"
    assert (skipped_text({"skipped": 0}), cut_text({"skipped": 0})) == ("0", None)
