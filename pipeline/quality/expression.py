"""Conditions in SQL over the columns of a row, evaluated by polars.

Only functions of one row are allowed: with an aggregate or a window a row's verdict would depend on its part. The
condition is bounded, and none of the functions makes a text much longer than its arguments.
"""

from __future__ import annotations

import re

import numpy as np
import polars as pl
import pyarrow as pa

from tirazh.errors import RequestError, did_you_mean
from tirazh.pipeline.quality.characters import Mask

MAX_LENGTH = 2_000
_MAX_DEPTH = 30
FUNCTIONS = (
    *("LENGTH", "CHAR_LENGTH", "OCTET_LENGTH", "LOWER", "UPPER", "TRIM", "LTRIM", "RTRIM", "LEFT", "RIGHT", "SUBSTR"),
    *("STRPOS", "STARTS_WITH", "ENDS_WITH", "REGEXP_LIKE", "CONCAT", "REVERSE", "SPLIT_PART", "ARRAY_LENGTH"),
    *("ARRAY_CONTAINS", "ABS", "ROUND", "FLOOR", "CEIL", "SIGN", "SQRT", "LN", "LOG2", "LOG10", "EXP", "POW", "MOD"),
    *("COALESCE", "NULLIF", "GREATEST", "LEAST", "IF", "TRY_CAST"),
)
_KEYWORDS = (
    "AND",
    "OR",
    "NOT",
    "IN",
    "BETWEEN",
    "LIKE",
    "ILIKE",
    "WHEN",
    "THEN",
    "ELSE",
    "IS",
    "RLIKE",
    "REGEXP",
    "CASE",
)
_REFUSED = (
    "SELECT",
    "OVER",
    "CAST",
    "CURRENT_TIMESTAMP",
    "CURRENT_DATE",
    "CURRENT_TIME",
    "LOCALTIME",
    "LOCALTIMESTAMP",
)
_TOKEN = re.compile(r"'(?:[^']|'')*'|\"[^\"]*\"|`[^`]*`|--|/\*|::|[^\W\d]\w*\s*\(|\w+|\S")
_VERDICT = "verdict"
# A panic of polars is a BaseException.
_FAILURES = (pl.exceptions.PolarsError, pl.exceptions.PanicException, pa.ArrowException, TypeError, ValueError)


def check_expression(text: str, columns: pa.Schema) -> tuple[str, ...]:
    """Check a condition by evaluating it on an empty table, and return the columns that it reads.

    Raises RequestError for a syntax error, an unknown column or function, a function of several rows, and a result that
    is not boolean.
    """
    where = f"--filters: the expression {text[:80]!r}"
    if len(text) > MAX_LENGTH:
        raise RequestError(f"{where} has {len(text)} characters; at most {MAX_LENGTH} are possible")
    _check_words(where, text)
    try:
        expression = pl.sql_expr(text)
        names = tuple(dict.fromkeys(expression.meta.root_names()))
    except _FAILURES as error:
        raise RequestError(f"{where} is no condition in SQL: {_sentence(error)}") from None
    for name in names:
        if name not in columns.names:
            close = did_you_mean(name, columns.names)
            raise RequestError(f"{where} names the column {name}, which there is not{close or _list(columns.names)}")
    if not names or expression.meta.has_multiple_outputs():
        raise RequestError(f"{where} must be a condition over columns{_list(columns.names)}")
    try:
        empty = pa.schema([columns.field(name) for name in names]).empty_table()
        result = _frame(empty).select(expression.alias(_VERDICT)).schema[_VERDICT]
    except _FAILURES as error:
        raise RequestError(f"{where} cannot be evaluated: {_sentence(error)}") from None
    if result != pl.Boolean:
        raise RequestError(f"{where} gives {result}, not true or false; compare it with something")
    return names


def is_true(text: str, names: tuple[str, ...], table: pa.Table) -> Mask:
    """Whether the condition is true for each row (bool [rows]); null counts as false.

    A row whose evaluation fails, for a value that polars cannot read for example, does not pass.
    """
    return _is_true(pl.sql_expr(text), table.select(list(names)))


def _is_true(expression: pl.Expr, table: pa.Table) -> Mask:
    try:
        verdicts = _frame(table).select(expression.alias(_VERDICT))[_VERDICT]
        return np.asarray(verdicts.fill_null(False).to_numpy(), np.bool_)
    except _FAILURES:
        if table.num_rows <= 1:
            return np.zeros(table.num_rows, np.bool_)
    half = table.num_rows // 2
    return np.concatenate([_is_true(expression, table.slice(0, half)), _is_true(expression, table.slice(half))])


def _frame(table: pa.Table) -> pl.DataFrame:
    return pl.DataFrame(table)


def _check_words(where: str, text: str) -> None:
    depth, before = 0, ""
    for token in _TOKEN.findall(text):
        word = token.rstrip("(").rstrip().upper()
        depth += token.endswith("(") - (token == ")")
        if token == "(" and before[:1] in ('"', "`"):
            raise RequestError(f"{where} calls {before}; write the name of a function without quotation marks")
        before = token
        if depth > _MAX_DEPTH:
            raise RequestError(f"{where} has more than {_MAX_DEPTH} parentheses inside one another; simplify it")
        if token in ("--", "/*") or word in _REFUSED or token == "::":
            meant = "; use TRY_CAST(… AS …)" if word == "CAST" or token == "::" else ""
            raise RequestError(f"{where} contains {word}, which is not allowed in a condition on one row{meant}")
        if token.endswith("(") and word and word not in (*FUNCTIONS, *_KEYWORDS):
            close = did_you_mean(word, FUNCTIONS) or f"; there are {', '.join(FUNCTIONS)}"
            raise RequestError(f"{where} calls {word}, which is no function on one row{close}")


def _list(names: list[str]) -> str:
    return f"; the columns are {', '.join(names)}"


def _sentence(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
