"""The language of prompt templates: a safe subset of Jinja."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tirazh.errors import InputError, RequestError, RowError
from tirazh.pipeline.prompts.template import PromptTemplate, check_variables


def test_a_template_renders_columns_conditions_and_filters() -> None:
    template = PromptTemplate("{{ title|trim|upper }}{% if lead %}: {{ lead }}{% endif %}\n{{ text|default('—') }}")
    assert template.variables == ("title", "lead", "text")
    assert template.render({"title": " новость ", "lead": "да", "text": "т"}) == "НОВОСТЬ: да\nт"
    assert template.render({"title": "н", "lead": None, "text": None}) == "Н\n—"


def test_printing_a_null_is_a_row_error() -> None:
    with pytest.raises(RowError, match="column 'text' is null"):
        PromptTemplate("a {{ text }}").render({"text": None})
    with pytest.raises(RowError, match="column 'text' is null"):
        PromptTemplate("a {{ text|upper }}").render({"text": None})


def test_numbers_and_dates_are_printed_as_text() -> None:
    assert PromptTemplate("{{ n }} {{ x }}").render({"n": 7, "x": 0.5}) == "7 0.5"


def test_template_syntax_in_a_value_is_plain_text() -> None:
    assert PromptTemplate("{{ text }}").render({"text": "{{ other }} {% for x in y %} <b>"}) == (
        "{{ other }} {% for x in y %} <b>"
    )


@pytest.mark.parametrize(
    "source",
    [
        "{{ text.__class__.__mro__ }}",
        "{{ text['__class__'] }}",
        "{{ text|attr('__class__') }}",
        "{{ text.format(1) }}",
        "{{ ''.join(text) }}",
        "{{ range(10**9) }}",
        "{{ cycler() }}",
        "{{ lipsum() }}",
        "{{ 'a' * 10000000000 }}",
        "{{ 9 ** 999999999 }}",
        "{{ text|center(10000000000) }}",
        "{% for a in text %}{{ a.b.c }}{% endfor %}",
        "{% set a = text %}{{ a }}",
        "{% import 'os' as os %}",
        "{% include '/etc/passwd' %}",
        "{% extends 'x' %}",
        "{% macro f() %}{% endmacro %}",
        "{% call f() %}{% endcall %}",
        "{% filter upper %}x{% endfilter %}",
        "{{ text is callable }}",
        "{{ [text] }}",
        "{{ {'a': text} }}",
        "{{ text[1:2] }}",
    ],
)
def test_everything_outside_the_safe_subset_is_refused(source: str) -> None:
    with pytest.raises(RequestError, match="--template"):
        PromptTemplate(source)


def test_a_syntax_error_is_reported_with_its_line() -> None:
    with pytest.raises(RequestError, match="--template, line 2: "):
        PromptTemplate("News:\n{{ text")


def test_an_unknown_column_is_refused_with_a_suggestion() -> None:
    with pytest.raises(InputError, match=r"uses 'titel', which is not a column of the input; did you mean title\?"):
        check_variables(("titel",), ["title", "text"])
    with pytest.raises(InputError, match="the columns are title, text"):
        check_variables(("zzz",), ["title", "text"])


def test_any_name_of_a_column_can_be_written() -> None:
    template = PromptTemplate("""{{ row["Text news"]|upper }} {{ row['it"s'] }} {{ row["2024"] }} {{ row }}""")
    assert template.variables == ("Text news", 'it"s', "2024", "row")
    assert template.render({"Text news": "a", 'it"s': 1, "2024": 2, "row": 3}) == "A 1 2 3"
    with pytest.raises(RowError, match="column 'Text news' is null"):
        template.render({"Text news": None})


@pytest.mark.parametrize("name", ["self", "loop", "range", "context", "environment", "caller", "c0", "class", "items"])
def test_a_column_with_a_name_of_jinja_or_python_is_a_column(name: str) -> None:
    for source in (f"{{{{ {name} }}}}", f'{{{{ row["{name}"]|trim }}}}'):
        assert PromptTemplate(source).render({name: "текст"}) == "текст"
        with pytest.raises(RowError, match=f"column '{name}' is null"):
            PromptTemplate(source).render({})


@pytest.mark.parametrize(
    ("source", "name"),
    [
        *(("{{ Text news }}", "Text news"), ("{{ news-text|trim }}", "news-text"), ("{{ a.b }}", "a.b")),
        *(("a\n{{ x }}{% if Заголовок статьи %}b{% endif %}", "Заголовок статьи"), ("{{ 2024 }}", "2024")),
    ],
)
def test_the_error_about_a_name_says_how_to_write_it(source: str, name: str) -> None:
    with pytest.raises(RequestError, match="--template, line") as caught:
        PromptTemplate(source)
    assert str(caught.value).endswith(f'if {name!r} is a column, write {{{{ row["{name}"] }}}}')


@pytest.mark.parametrize(
    ("name", "column", "says"), [("TEXT", "text", "text"), ("text_news", "Text news", 'row["Text news"]')]
)
def test_a_column_that_differs_in_case_and_signs_is_suggested(name: str, column: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        check_variables((name,), ["id", column])
    assert str(caught.value).endswith(f"did you mean {says}?")


def test_an_operation_on_a_null_names_the_column() -> None:
    with pytest.raises(RowError, match="column 'n' is null"):
        PromptTemplate("{% if n < 1 %}x{% endif %}").render({"n": None})


def test_a_prompt_that_would_become_too_long_is_a_row_error() -> None:
    grow = "|replace('a','" + "a" * 1000 + "')"
    with pytest.raises(RowError, match="characters"):
        PromptTemplate("{{ text" + grow * 2 + " }}").render({"text": "a" * 100})


@given(
    segments=st.lists(
        st.sampled_from(["{{ a }}", "{{ b }}", "{{b}}", "x", "\n", " ", "{# no #}", "{{ '{{' }}"]), max_size=8
    ),
    values=st.fixed_dictionaries({name: st.none() | st.text() | st.integers() | st.floats() for name in "ab"}),
)
def test_the_fast_path_of_a_plain_template_renders_the_same_as_jinja(
    segments: list[str], values: dict[str, object]
) -> None:
    fast, slow = PromptTemplate("".join(segments)), PromptTemplate("{% if true %}" + "".join(segments) + "{% endif %}")
    results = []
    for template in (fast, slow):
        try:
            results.append(template.render(values))
        except RowError as error:
            results.append(str(error))
    # Jinja drops the line break after a tag and at the end of a template, so line breaks at the
    # ends are not compared.
    assert results[0].strip("\n") == results[1].strip("\n")
