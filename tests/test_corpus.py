"""The generated corpus: patterns, agreement in both languages, and what the texts are like."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("pymorphy3", reason="needs pymorphy3, the dictionary of Russian")

from examples.corpus.build import SHARES, makers, texts
from examples.corpus.english import English, Noun
from examples.corpus.english import Person as EnglishPerson
from examples.corpus.english_world import ENGLISH_WORLD
from examples.corpus.items import TOPIC_WORDS, Maker
from examples.corpus.news import _COMMON, TOPICS, common, patterns_of
from examples.corpus.patterns import parse, realise, sentence, slots_of
from examples.corpus.russian import Person, Phrase, Russian
from examples.corpus.russian_world import RUSSIAN_WORLD

LANGUAGES = {"ru": (RUSSIAN_WORLD, Russian()), "en": (ENGLISH_WORLD, English())}
ANNA = Person("Анна", "Смирнов", "femn")
ILYA = Person("Илья", "Соколов", "masc")
seeds = st.integers(0, 2**32)


def russian(pattern: str, **values: object) -> str:
    return sentence(pattern, values, Russian(), random.Random(0))


def english(pattern: str, **values: object) -> str:
    return sentence(pattern, values, English(), random.Random(0))


def test_a_choice_takes_one_of_its_arms_and_may_be_nested() -> None:
    found = {realise("[a|b[1|2]|]", {}, English(), random.Random(seed)) for seed in range(60)}
    assert found == {"a", "b1", "b2", ""}


@pytest.mark.parametrize("pattern", ["[a|b", "a]", "{a", "<a b"])
def test_a_pattern_whose_marks_do_not_match_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="unmatched"):
        parse(pattern)


def test_the_slots_of_a_pattern_include_those_of_choices_verbs_and_numbers() -> None:
    assert slots_of("{a} [<win b>|{c#match}]") == {"a", "b", "c"}


def test_russian_names_and_phrases_have_cases() -> None:
    assert russian("{p.dat} и {q.gen}, {p.last.ins}", p=ANNA, q=ILYA) == "Анне Смирновой и Ильи Соколова, Смирновой"
    assert russian("{x.acc} {x.loc}", x=Phrase("белый медведь")) == "Белого медведя белом медведе"
    assert russian("в {x.gen}", x=Phrase("завод «Новый берег»")) == "В завода «Новый берег»"
    assert russian("о {q.loc}, с {t.ins}", q=ILYA, t=Phrase("«Металлург»")) == "Об Илье Соколове, с «Металлургом»"


def test_russian_verbs_agree_with_their_subject() -> None:
    assert (
        russian("{p} <выиграть p>, {q} <выиграть q>", p=ANNA, q=ILYA) == "Анна Смирнова выиграла, Илья Соколов выиграл"
    )
    assert russian("{x} <открыть* x>, {y} <работать+ y>", x=Phrase("новая школа"), y=Phrase("часы")) == (
        "Новая школа открыта, часы работают"
    )


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (1, "1 год"),
        (2, "2 года"),
        (5, "5 лет"),
        (11, "11 лет"),
        (21, "21 год"),
        (112, "112 лет"),
        (10_000, "10 000 лет"),
    ],
)
def test_russian_nouns_agree_with_numbers(number: int, expected: str) -> None:
    assert russian("{n#год}", n=number) == expected


def test_russian_adjectives_agree_with_counted_nouns() -> None:
    assert [russian("{n#новый корабль}", n=n) for n in (1, 3, 7)] == [
        "1 новый корабль",
        "3 новых корабля",
        "7 новых кораблей",
    ]


def test_english_nouns_have_articles_plurals_and_pronouns() -> None:
    owl = Noun("owl")
    assert english("{x.a} and {n#child}, {x.s}", x=owl, n=3) == "An owl and 3 children, owls"
    ann = EnglishPerson("Ann", "Ross", "femn", "engineer")
    assert (
        english("{p}, {p.job.a}, and {p.his} dog; {p.last.pos}", p=ann) == "Ann Ross, an engineer, and her dog; Ross'"
    )


@pytest.mark.parametrize("topic", TOPICS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_pattern_of_a_topic_becomes_a_sentence(language: str, topic: str) -> None:
    world, grammar = LANGUAGES[language]
    for story, pattern in patterns_of(language, topic):
        for seed in range(5):
            rng = random.Random(seed)
            values = {name: world.draw(kind, rng) for name, kind in _COMMON[language].items()}
            values |= world.draw_all(common(language)["slots"], rng) | world.draw_all(story["slots"], rng)
            made = sentence(pattern, values, grammar, rng)
            assert not re.search(r"[\[\]{}<>|#]|  | [,.]", made), (pattern, made)
            assert made[0].isupper() or not made[0].isalpha(), made


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_addition_to_a_story_becomes_a_sentence(language: str) -> None:
    world, grammar = LANGUAGES[language]
    for pattern in (*common(language)["sources"], *common(language)["quotes"]):
        for seed in range(20):
            rng = random.Random(seed)
            values = {name: world.draw(kind, rng) for name, kind in _COMMON[language].items()}
            made = sentence(pattern, values | world.draw_all(common(language)["slots"], rng), grammar, rng)
            assert not re.search(r"[\[\]{}<>|#]|  | [,.]", made), (pattern, made)


@given(seeds)
def test_the_same_seed_gives_the_same_texts(seed: int) -> None:
    assert list(texts(4, seed=seed)) == list(texts(4, seed=seed))


@given(seeds)
def test_json_items_are_json_behind_their_prompt(seed: int) -> None:
    for world, grammar in LANGUAGES.values():
        text = Maker(world, grammar, random.Random(seed)).json_items()
        assert isinstance(json.loads(text[text.index("{") :]), dict)


@given(seeds)
def test_a_dialogue_alternates_between_user_and_assistant(seed: int) -> None:
    for world, grammar in LANGUAGES.values():
        lines = Maker(world, grammar, random.Random(seed)).dialogue().split("\n")
        roles = [line.split(": ")[0] for line in lines]
        asked = roles[1:] if roles[0] == "system" else roles
        assert asked == ["user", "assistant"] * (len(asked) // 2)
        assert asked


@given(seeds)
def test_topic_lines_name_the_topics_of_the_labels(seed: int) -> None:
    for language, (world, grammar) in LANGUAGES.items():
        text = Maker(world, grammar, random.Random(seed)).topic_lines()
        assert text.split(": ")[-1] in TOPIC_WORDS[language].values()


def test_texts_are_distinct_and_of_every_kind_and_language() -> None:
    made = list(texts(1_500, seed=5))
    assert len({text for _, _, text in made}) == 1_500
    assert {(language, kind) for language, kind, _ in made} == {(name, kind) for name in LANGUAGES for kind in SHARES}


def test_articles_are_not_made_of_repeated_sentences() -> None:
    make = makers("ru", random.Random(7))["article"]
    sentences = [line for _ in range(2_000) for line in re.split(r"(?<=[.!?])\s", make())]
    assert len(set(sentences)) > 0.85 * len(sentences)


def test_nearly_all_russian_words_are_in_the_dictionary() -> None:
    import pymorphy3

    analyzer = pymorphy3.MorphAnalyzer()
    made = " ".join(text for _, _, text in texts(1_000, seed=9, languages=("ru",)))
    words = re.findall(r"[а-яё]{2,}", made.lower())
    assert sum(analyzer.word_is_known(word) for word in words) > 0.999 * len(words)


def test_the_command_writes_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import polars as pl

    from examples.corpus import build

    monkeypatch.setattr("sys.argv", ["build", "--texts", "40", "--out", str(tmp_path / "c.parquet")])
    build.main()
    table = pl.read_parquet(tmp_path / "c.parquet")
    assert table.columns == ["language", "kind", "text"]
    assert table.height == 40
