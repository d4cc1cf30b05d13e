"""What a search tries."""

from __future__ import annotations

from typing import Any

import pytest

from tirazh.errors import RequestError
from tirazh.pipeline.prompts.template import PromptTemplate
from tirazh.pipeline.tuning.space import PromptChoice, ScoreChoice, SearchSpace, parse_space
from tirazh.pipeline.tuning.templates import built_in_templates, is_russian

JOB = PromptChoice("job", "{{ title }}\nРаздел:")
TEMPLATES = {"topic": "{{ text }}\nTopic:", "category": "{{ text }}\nCategory:"}


PLAIN = ScoreChoice()


def space(value: Any = None, given: PromptChoice = JOB, score: ScoreChoice = PLAIN) -> SearchSpace:
    return parse_space(value, given=given, given_score=score, templates=TEMPLATES)


def test_by_default_the_job_and_every_built_in_template_are_tried_with_shots() -> None:
    found = space()
    assert found.prompts[0] == JOB
    assert len(found.prompts) == 3 * 4
    assert len(found.scores) == 3 * 3
    assert found.fits
    assert found.shots == 16


def test_the_job_as_given_is_always_in_the_space() -> None:
    given = PromptChoice("given", "{{ title }}", None)
    found = space({"template": "topic", "shots": 0, "scoring": "mean", "calibrate": "none"}, given, ScoreChoice("pmi"))
    assert found.prompts == (given, PromptChoice("topic", TEMPLATES["topic"], 0))
    assert found.scores == (ScoreChoice("pmi"), ScoreChoice("mean"))
    assert not found.fits


def test_a_fitted_calibration_alone_is_tried_with_every_scoring() -> None:
    found = space({"scoring": ["mean", "pmi"], "calibrate": "fitted"})
    assert found.scores == (ScoreChoice("sum"), ScoreChoice("mean"), ScoreChoice("pmi"))
    assert found.fits


def test_only_prompts_with_shots_differ_by_their_selection() -> None:
    found = space({"template": "job", "shots": [0, 2], "shot_selection": ["balanced", "nearest"]})
    assert [(each.shots, each.shot_selection) for each in found.prompts] == [
        (0, "balanced"),
        (2, "balanced"),
        (2, "nearest"),
    ]


def test_a_template_that_occurs_twice_is_tried_once() -> None:
    found = space({"template": ["job", "{{ title }}\nРаздел:", "{{ text }}?"], "shots": [0]})
    assert [each.name for each in found.prompts] == ["job", "template 3"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1], "must be a mapping with template, shots"),
        ({"shot": [1]}, "has the key 'shot'; did you mean shots?"),
        ({"shots": [-1]}, "shots must hold integers from 0 to 1000, not -1"),
        ({"shots": [True]}, "not True"),
        ({"scoring": ["summ"]}, "scoring must hold sum, mean, pmi, not 'summ'; did you mean sum?"),
        ({"calibrate": "file.json"}, "calibrate must hold none, contextual, batch, fitted, not 'file.json'"),
        ({"template": "topik"}, "neither a template with {{ column }} nor one of job, topic, category; did you mean"),
        ({"template": [3]}, "template must hold texts, not 3"),
        ({"shots": []}, "shots is an empty list"),
        ({"shots": list(range(300))}, "gives 900 prompts to compare; at most 256"),
    ],
)
def test_a_wrong_space_is_refused_in_one_sentence(value: Any, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        space(value)
    assert message in str(caught.value)


def test_the_built_in_templates_are_of_the_language_of_the_texts_and_compile() -> None:
    for words, texts, end in (
        (["спорт", "мир"], ["Футбол: ЦСКА победил"], "Тема:"),
        (["sport"], ["A match"], "Topic:"),
    ):
        found = built_in_templates(words, text_column="body", texts=texts)
        assert len(found) == 5
        assert found["topic"].endswith(end)
        for template in found.values():
            assert PromptTemplate(template).variables == ("body",) or set(PromptTemplate(template).variables) == {
                "body"
            }
        assert ", ".join(words) in found["list-topic"]


def test_words_that_are_template_syntax_or_too_long_are_not_listed() -> None:
    for words in (["{{ x }}", "b"], ["слово" * 50, "слова" * 50]):
        assert set(built_in_templates(words, text_column="text", texts=["a"])) == {"topic", "category", "text-topic"}


def test_a_column_with_a_space_in_its_name_can_be_tuned() -> None:
    found = built_in_templates(["a", "b"], text_column="News text", texts=["a"])
    assert PromptTemplate(found["topic"]).render({"News text": "match"}) == "match\nTopic:"


def test_a_text_without_letters_is_not_russian() -> None:
    assert not is_russian(["123"])
