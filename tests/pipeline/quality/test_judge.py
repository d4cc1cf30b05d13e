"""`judge` is a pure function of a row; `quality_config` refuses what the output cannot answer."""

from __future__ import annotations

import pickle
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pipeline.quality.tables import config_for, generated, reasons_for
from tirazh.errors import RequestError
from tirazh.pipeline.quality.judge import judge, mask_table, quality_config, text_of
from tirazh.pipeline.spec import GenerateSpec

EVERY_RULE: list[Any] = [
    "short-ru",
    {"max_chars": 40, "max_words": 6, "max_prompt_copy": {"n": 2, "share": 0.3}},
    {"ends_with_punctuation": True, "max_bits_per_char": 2, "valid": True, "min_stop_words": 0.2},
    {"column": "title", "min_chars": 3, "language": ["ru", "en"]},
    {"expression": "LENGTH(completion) > 5", "name": "longer"},
]
SCHEMA = {
    "type": "object",
    "properties": {"title": {"type": "string"}, "body": {"type": "string"}, "category": {"enum": ["спорт", "наука"]}},
}
texts = st.one_of(
    st.none(),
    st.text(max_size=60),
    st.lists(
        st.sampled_from(["кот", "и", "cat", "7 916", "123-45-67", "a@b.ru", ".", "\n", "№", "4111111111111111"])
    ).map(" ".join),
)
rows = st.lists(st.tuples(texts, texts, st.sampled_from(["stop", "length", None]), st.floats(-99, 0)), max_size=12)


def table_of(rows: list[tuple[str | None, str | None, str | None, float]]) -> pa.Table:
    completions, titles, finishes, logprobs = [[row[place] for row in rows] for place in range(4)]
    return generated(
        completions,
        title=pa.array(titles, pa.string()),
        prompt=pa.array(titles, pa.string()),
        finish_reason=pa.array(finishes, pa.string()),
        logprob=pa.array(logprobs, pa.float64()),
    )


@settings(max_examples=25)
@given(rows, st.data())
def test_a_row_is_judged_alone(
    rows: list[tuple[str | None, str | None, str | None, float]], data: st.DataObject
) -> None:
    table = table_of(rows)
    config = config_for(table, filters=EVERY_RULE, pii=("email", "phone", "card"), prompt_column="prompt")
    masked, reasons = judge(table, config)
    cut = data.draw(st.integers(0, len(rows)))
    first, second = judge(table.slice(0, cut), config), judge(table.slice(cut), config)
    assert first[1] + second[1] == reasons
    assert first[0].to_pylist() + second[0].to_pylist() == masked.to_pylist()
    order = data.draw(st.permutations(range(len(rows))))
    moved = judge(table.take(pa.array(order, pa.int64())), config)
    assert moved[1] == [reasons[place] for place in order]


@settings(max_examples=25)
@given(rows)
def test_a_masked_table_is_judged_the_same(rows: list[tuple[str | None, str | None, str | None, float]]) -> None:
    table = table_of(rows)
    config = config_for(table, filters=EVERY_RULE, pii=("email", "phone", "card"), prompt_column="prompt")
    masked, reasons = judge(table, config)
    assert masked.schema.equals(table.schema)
    again = judge(masked, config)
    assert again[0].equals(masked)
    assert again[1] == reasons
    assert all(set(found) <= set(config.reasons) for found in reasons)


def test_reasons_come_in_the_order_of_the_list() -> None:
    filters = [{"max_words": 1}, {"min_chars": 50}, {"language": "en"}]
    assert reasons_for(["Кот спит"], filters) == [["max_words", "min_chars", "language"]]


def test_a_row_with_an_error_or_without_text_has_that_reason_alone() -> None:
    found = reasons_for(["", None, "кот"], "short-ru", error=pa.array([None, None, "no room"], pa.string()))
    assert found == [["empty"], ["error"], ["error"]]


def test_more_rows_than_a_slice_are_judged_in_order() -> None:
    completions = ["кот"] * 9_000
    completions[8_191] = "cat"
    found = reasons_for(completions, {"language": "ru"})
    assert [row for row, reasons in enumerate(found) if reasons] == [8_191]


def test_a_very_long_text_is_judged() -> None:
    found = reasons_for(["кот " * 1_000_000, "кот и пёс"], {"max_top_ngram": 0.9, "min_words": 3})
    assert found == [["max_top_ngram"], []]


def test_with_a_schema_the_free_string_fields_are_judged_together() -> None:
    table = generated(
        ['{"title": "Кот", "body": "спит", "category": "спорт"}'] * 2,
        title=["Кот", None],
        body=["спит", "пишет на ivan@mail.ru"],
        category=["спорт", "спорт"],
    )
    config = config_for(table, filters={"max_words": 2}, pii=("email",), schema=SCHEMA)
    assert text_of(table, config) == ["Кот\nспит", "пишет на ivan@mail.ru"]
    masked, reasons = judge(table, config)
    assert reasons == [[], ["max_words"]]
    assert masked["body"].to_pylist() == ["спит", "пишет на <email>"]


def test_masks_are_counted_in_the_completions() -> None:
    completion = (
        '{"title": "Пишите", "body": "ivan@mail.ru или\\n8 916 123-45-67", "category": "наука", "code": 89161234567}'
    )
    table = generated([completion], title=["Пишите"], body=["ivan@mail.ru или\n8 916 123-45-67"], category=["наука"])
    masked, counts = mask_table(table, config_for(table, pii=("phone", "email"), schema=SCHEMA))
    assert counts == {"email": 1, "phone": 1}
    assert masked["completion"].to_pylist() == [
        '{"title": "Пишите", "body": "<email> или\\n<phone>", "category": "наука", "code": 89161234567}'
    ]
    assert masked["body"].to_pylist() == ["<email> или\n<phone>"]


def test_nothing_asked_gives_no_config_and_a_config_pickles() -> None:
    table = generated(["кот"])
    spec = GenerateSpec(input=("in",), output="out")
    assert quality_config(spec, table.schema, text_column="completion", prompt_column=None) is None
    config = config_for(table, filters="short-ru", pii=("inn",))
    copy = pickle.loads(pickle.dumps(config))
    assert judge(table, copy)[1] == judge(table, config)[1]


def test_columns_have_the_prefix_of_the_job() -> None:
    table = pa.table({"ai_completion": ["кот"], "ai_finish_reason": ["length"], "ai_error": pa.nulls(1, pa.string())})
    spec = GenerateSpec(input=("in",), output="out", prefix="ai_", filters=["finished"])
    config = quality_config(spec, table.schema, text_column="ai_completion", prompt_column=None)
    assert config is not None
    assert judge(table, config)[1] == [["finished"]]


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (
            {"filters": {"column": "titel", "min_chars": 3}},
            "names the column titel, which there is not; did you mean title?",
        ),
        ({"filters": {"column": "year", "min_chars": 3}}, "judges text, but the column year is of type int64"),
        (
            {"filters": {"max_prompt_copy": 0.5}},
            "compares with the prompt, which is not in the output; add keep: [prompt]",
        ),
        ({"filters": {"max_bits_per_char": 3}}, "needs the log-probability of the completions"),
        ({"filters": {"expression": "yaer > 1", "name": "new"}}, "did you mean year?"),
        ({"pii": ("mail",)}, "--pii: there is no kind 'mail'; did you mean email?"),
        ({"pii": ("name",)}, "the kinds are email, phone, card"),
    ],
)
def test_what_the_output_cannot_answer_is_refused(asked: dict[str, Any], sentence: str) -> None:
    table = generated(["кот"], title=["a"], year=[2026])
    with pytest.raises(RequestError) as refused:
        config_for(table, **asked)
    assert sentence in str(refused.value)


def test_lists_of_samples_are_refused() -> None:
    table = pa.table({"completions": [["a", "b"]]})
    spec = GenerateSpec(input=("in",), output="out", filters=["short-ru"])
    with pytest.raises(RequestError, match="remove --samples-as lists"):
        quality_config(spec, table.schema, text_column="completions", prompt_column=None)
