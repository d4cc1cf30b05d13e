"""Conditions in SQL: checked before the job starts, one row at a time, never an exception of the job."""

from __future__ import annotations

import time

import pyarrow as pa
import pytest

from tests.pipeline.quality.tables import reasons_for
from tirazh.errors import RequestError
from tirazh.pipeline.quality.expression import FUNCTIONS, MAX_LENGTH, check_expression, is_true

COLUMNS = pa.schema(
    {"completion": pa.string(), "completion_tokens": pa.int32(), "score": pa.float64(), "tags": pa.list_(pa.string())}
)
REFUSED = {
    "a column": ("complettion = 'a'", "names the column complettion, which there is not; did you mean completion?"),
    "a function": ("LENGHT(completion) > 1", "calls LENGHT, which is no function on one row; did you mean LENGTH?"),
    "an aggregate": ("completion_tokens > AVG(completion_tokens)", "calls AVG, which is no function on one row"),
    "an aggregate after a space": ("score > max\n(score)", "calls MAX"),
    "an aggregate in quotes": ('score > "max"(score)', "without quotation marks"),
    "a window": ("ROW_NUMBER() OVER (ORDER BY score) > 1", "calls ROW_NUMBER"),
    "a query": ("score > (SELECT 1)", "contains SELECT"),
    "a cast that fails": (
        "CAST(completion AS INT) > 1",
        "contains CAST, which is not allowed in a condition on one row",
    ),
    "a short cast": ("completion::int > 1", "use TRY_CAST"),
    "the time": ("score > 1 AND CURRENT_TIMESTAMP > '2026-01-01'", "contains CURRENT_TIMESTAMP"),
    "a comment": ("score > 1 -- AND", "contains --"),
    "syntax": ("score >", "is no condition in SQL: unable to parse"),
    "a second statement": ("score > 1; DROP TABLE x", "is no condition in SQL"),
    "no column": ("1 = 1", "must be a condition over columns; the columns are completion"),
    "a number": ("score + 1", "gives Float64, not true or false"),
    "types": ("completion > 1", "cannot be evaluated"),
    "a regular expression": ("completion ~ '('", "cannot be evaluated: regex error"),
    "length": ("score > 1 OR " * 200 + "score > 1", f"at most {MAX_LENGTH} are possible"),
    "depth": ("(" * 40 + "score > 1" + ")" * 40, "more than 30 parentheses inside one another"),
}


@pytest.mark.parametrize(("text", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_a_condition_is_refused_before_the_job_starts(text: str, sentence: str) -> None:
    with pytest.raises(RequestError) as refused:
        check_expression(text, COLUMNS)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("completion_tokens BETWEEN 3 AND 9", [True, True, False]),
        ("completion LIKE '%кот%' AND score > 0.5", [True, False, False]),
        ("completion NOT IN ('AVG(', 'пёс')", [True, False, False]),
        ("TRY_CAST(completion AS INT) > 1", [False, False, False]),
        ("LENGTH(completion) = 3 AND OCTET_LENGTH(completion) = 6", [False, True, False]),
        ("REGEXP_LIKE(LOWER(completion), '^серый')", [True, False, False]),
        ("ARRAY_LENGTH(tags) > 0 OR completion IS NULL", [True, False, True]),
        ("CASE WHEN score > 0.5 THEN completion_tokens < 4 ELSE completion_tokens > 4 END", [True, True, True]),
    ],
)
def test_null_counts_as_false(text: str, passes: list[bool]) -> None:
    table = pa.table(
        {"completion": ["Серый кот", "пёс", None], "completion_tokens": [3, 5, 10], "score": [0.9, 0.1, None]}
        | {"tags": [["a"], [], None]},
        schema=COLUMNS,
    )
    assert is_true(text, check_expression(text, COLUMNS), table).tolist() == passes


def test_a_row_whose_evaluation_fails_fails_alone() -> None:
    text = "REGEXP_LIKE(completion, pattern)"
    table = pa.table({"completion": ["a", "a", "b", "a"], "pattern": ["a", "(", "a", "^a"]})
    assert is_true(text, check_expression(text, table.schema), table).tolist() == [True, False, False, True]


def test_every_function_that_the_documents_name_exists() -> None:
    one = {"LEFT", "RIGHT", "STARTS_WITH", "ENDS_WITH", "REGEXP_LIKE", "STRPOS", "CONCAT", "ARRAY_CONTAINS", "MOD"}
    for name in FUNCTIONS:
        argument = "tags" if name.startswith("ARRAY") else "completion_tokens" if name in NUMERIC else "completion"
        second = ", 2" if name in {"LEFT", "RIGHT", "MOD", "POW"} else ", 'a'" if name in one else ""
        more = {"SUBSTR": ", 1, 2", "SPLIT_PART": ", ' ', 1", "COALESCE": ", 'a'", "NULLIF": ", 'a'"}.get(name, second)
        call = f"{name}({argument}{more})"
        special = {"IF": "IF(score > 1, 1, 2)", "TRY_CAST": "TRY_CAST(score AS INT)"}
        check_expression(f"{special.get(name, call)} IS NOT NULL", COLUMNS)


NUMERIC = {
    *("ABS", "ROUND", "FLOOR", "CEIL", "SIGN", "SQRT", "LN", "LOG2", "LOG10", "EXP", "POW", "MOD", "GREATEST", "LEAST"),
}


def test_the_name_of_an_expression_is_the_reason() -> None:
    filters = [{"expression": "topic = 'спорт'", "name": "topic"}]
    assert reasons_for(["раз", "два"], filters, topic=["спорт", "наука"]) == [[], ["topic"]]


def test_a_long_condition_takes_little_time() -> None:
    text = " + ".join(["score"] * 240) + " > 1"
    started = time.process_time()
    check_expression(text, COLUMNS)
    assert time.process_time() - started < 2
