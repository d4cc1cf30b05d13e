"""Loops of a template over lists: what they print, what is refused, and how much they may cost."""

from __future__ import annotations

import pickle
from typing import Any

import pyarrow as pa
import pytest

from tirazh.errors import InputError, RequestError, RowError
from tirazh.pipeline.prompts.template import PromptTemplate
from tirazh.pipeline.prompts.variable_types import check_variable

CHAT = "{% for turn in messages %}{{ turn.role }}: {{ turn.content }}\n{% endfor %}assistant:"
TURNS = [{"role": "user", "content": "Привет"}, {"role": "assistant", "content": "Здравствуйте"}]
MESSAGES = pa.list_(pa.struct({"role": pa.string(), "content": pa.string(), "tags": pa.list_(pa.string())}))


def render(source: str, **values: Any) -> str:
    return pickle.loads(pickle.dumps(PromptTemplate(source))).render(values)


def test_a_conversation_is_printed_turn_by_turn() -> None:
    assert render(CHAT, messages=TURNS) == "user: Привет\nassistant: Здравствуйте\nassistant:"
    assert render(CHAT, messages=[]) == "assistant:"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{% for tag in tags %}{{ tag | upper }}{% if not loop.last %}, {% endif %}{% endfor %}", "А, Б"),
        ("{% for tag in tags %}{{ loop.index }}. {{ tag }} ({{ name }}) {% endfor %}{{ name }}", "1. а (x) 2. б (x) x"),
        ("{% for tag in tags %}{% if tag == 'б' %}{{ tag }}{% endif %}{% endfor %}", "б"),
        ("{% for tag in tags %}.{% endfor %}{% for tag in tags %}{{ tag }}{% endfor %}", "..аб"),
        ('{% for item in row["my tags"] %}{{ item["a b"] }}{{ item.items }}{% endfor %}', "12"),
        ("{% for tag in none_there %}{{ tag }}{% else %}nothing{% endfor %}{{ tag }}", "nothing!"),
        ("{% if tags %}{{ name }}{% endif %}{% for c0 in tags %}{{ c0 }}{% endfor %}{{ c0 }}", "xабcolumn"),
    ],
)
def test_what_a_loop_may_do(source: str, expected: str) -> None:
    values = {"tags": ["а", "б"], "name": "x", "my tags": [{"a b": "1", "items": "2"}], "none_there": [], "tag": "!"}
    assert render(source, **values, c0="column") == expected


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% for a in x %}{% for b in y %}{{ b }}{% endfor %}{% endfor %}", "line 1: loops may not be nested"),
        ("{% for a in x if a %}{{ a }}{% endfor %}", "a loop may have no condition of its own"),
        ("{% for a in x recursive %}{{ a }}{% endfor %}", "a loop may have no condition of its own"),
        ("{% for a, b in x %}{{ a }}{% endfor %}", "a loop has one variable"),
        ("{% for loop in x %}{{ loop }}{% endfor %}", "which is not called row or loop"),
        ("{% for a in x[1:] %}{{ a }}{% endfor %}", "a loop goes over a column of lists"),
        ("{% for a in range(9) %}{{ a }}{% endfor %}", "a loop goes over a column of lists"),
        ("{% for a in x %}{{ loop.indx }}{% endfor %}", "loop has no 'indx'; did you mean index?"),
        ("{% for a in x %}{{ loop }}{% endfor %}", "loop has the names loop.index, loop.index0"),
        ("{% for a in x %}{{ loop.cycle(1) }}{% endfor %}", "loop has no 'cycle'"),
        ("{% for a in x %}{{ a.b.c }}{% endfor %}", r"attribute access \(\.\) is not allowed"),
        ("{% for a in x %}{{ a.pop() }}{% endfor %}", "a call is not allowed"),
        ("{% for a in x %}{{ a.__class__.__mro__ }}{% endfor %}", r"attribute access \(\.\) is not allowed"),
        ("{% for a in x %}{{ y.z }}{% endfor %}", r"attribute access \(\.\) is not allowed"),
        ("{{ x.y }}", r"attribute access \(\.\) is not allowed"),
    ],
)
def test_a_loop_that_is_not_allowed_is_refused(source: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        PromptTemplate(source)


def test_no_attribute_of_a_value_is_ever_looked_up() -> None:
    with pytest.raises(RowError, match="column 'x': '__class__' of an item is null"):
        render("{% for a in x %}{{ a.__class__ }}{% endfor %}", x=[{"b": 1}])


@pytest.mark.parametrize(
    ("source", "values", "message"),
    [
        (CHAT, {"messages": None}, "column 'messages' is null"),
        (CHAT, {"messages": [*TURNS, None]}, "column 'messages': 'role' of an item is null"),
        (CHAT, {"messages": [{"role": "user", "content": None}]}, "column 'messages': 'content' of an item is null"),
        ("{% for tag in tags %}{{ tag }}{% endfor %}", {"tags": ["a", None]}, "column 'tags': an item is null"),
    ],
)
def test_a_null_that_is_printed_is_an_error_of_the_row(source: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(RowError, match=message):
        render(source, **values)


def test_a_null_may_be_replaced() -> None:
    assert render("{% for t in x %}{{ t.a | default('?') }}{% endfor %}", x=[{"a": None}, {"a": 1}]) == "?1"
    assert render("{% if x %}{% for t in x %}{{ t }}{% endfor %}{% endif %}.", x=None) == "."


def test_the_cost_of_a_row_is_bounded_before_it_is_rendered() -> None:
    with pytest.raises(RowError, match="would evaluate 2000000 expressions, more than 1048576"):
        render("{% for t in x %}{{ t }}{% endfor %}", x=[""] * 1_000_000)
    with pytest.raises(RowError, match=r"the prompt would have \d+ characters"):
        render("{% for t in x %}{{ long }}{% endfor %}", x=[""] * 20_000, long="x" * 1_000)
    with pytest.raises(RowError, match=r"the prompt would have \d+ characters"):
        render("{% for t in x %}" + "{{ t.a }}" * 20 + "{% endfor %}", x=[{"a": "x" * 1_000}] * 1_000)


@pytest.mark.parametrize(
    ("source", "arrow_type", "message"),
    [
        ("{{ messages }}", MESSAGES, r"which holds list<.*not text; go over its items with {% for item in messages %}"),
        ("{{ messages | upper }}", pa.struct({"a": pa.string()}), r"which holds struct<a: string>, not text$"),
        (
            "{% for t in messages %}{{ t }}{% endfor %}",
            MESSAGES,
            "prints the items of column 'messages', which are stru",
        ),
        ("{% for t in messages %}{{ t.rol }}{% endfor %}", MESSAGES, "'rol' of the items .*; did you mean role"),
        ("{% for t in messages %}{{ t.tags }}{% endfor %}", MESSAGES, "'tags' of the items .* holds list<"),
        ("{% for t in messages %}{{ t.a }}{% endfor %}", pa.list_(pa.string()), "do not have; they are string"),
        ("{% for t in messages %}{{ t }}{% endfor %}", pa.string(), "goes over column 'messages', which holds string"),
        ("{% for t in messages %}{{ t }}{% endfor %}", pa.map_(pa.string(), pa.string()), "not a list"),
        (CHAT + "{{ messages }}", MESSAGES, "which holds list<.*not text"),
    ],
)
def test_a_column_of_the_wrong_type_is_refused(source: str, arrow_type: pa.DataType, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_variable(PromptTemplate(source), "messages", arrow_type)


@pytest.mark.parametrize("arrow_type", [MESSAGES, pa.large_list(MESSAGES.value_type), pa.list_(MESSAGES.value_type, 2)])
def test_lists_of_every_kind_may_be_gone_over(arrow_type: pa.DataType) -> None:
    check_variable(PromptTemplate(CHAT + "{% if messages %}!{% endif %}"), "messages", arrow_type)


def test_only_texts_may_be_truncated() -> None:
    template = PromptTemplate(CHAT + "{% if style %}{{ text }}{% endif %}")
    assert template.variables == ("messages", "style", "text")
    assert template.printed == {"text"}
