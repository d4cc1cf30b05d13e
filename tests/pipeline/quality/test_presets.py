"""The presets flag at most 1 % of human titles, paragraphs and articles; the language of human texts is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.pipeline.quality.tables import reasons_for
from tirazh.pipeline.quality.measures import Sample, languages_of
from tirazh.pipeline.quality.words import Words

ROWS = 2_000


def texts_of(news_dir: Path, name: str, shape: str) -> list[str]:
    """The first texts of a set: titles, articles, paragraphs of at least 60 characters, beginnings or pieces."""
    frame = pl.concat([pl.read_parquet(news_dir / f"{name}.{part}.parquet") for part in ("test", "train")])
    if shape == "titles":
        return frame["title"].to_list()[:ROWS]
    articles = frame["text"].to_list()
    if shape == "paragraphs":
        return [part for text in articles for part in text.split("\n") if len(part.strip()) >= 60][:ROWS]
    if shape == "4 words":
        pieces = [" ".join(text.split()[:4]) for text in articles]
        return [piece for piece in pieces if not piece.startswith("<!--")][:ROWS]  # style sheets of a word processor
    return [text[:700] if shape == "700 characters" else text for text in articles[:ROWS]]


@pytest.mark.parametrize(
    ("preset", "name", "shape"),
    [
        ("short-ru", "ru_news_nplus1", "titles"),
        ("short-ru", "ru_news_nplus1", "paragraphs"),
        ("short-ru", "ru_news_nplus1", "700 characters"),
        ("short-ru", "ru_news_nplus1", "articles"),
        ("short-ru", "ru_news_lenta", "titles"),
        ("short-ru", "ru_news_ria", "titles"),
        ("short-ru", "ru_news_ria", "articles"),
        ("short-en", "en_news_agnews", "titles"),
        ("short-en", "en_news_agnews", "articles"),
    ],
)
def test_a_preset_flags_at_most_one_human_text_in_a_hundred(news_dir: Path, preset: str, name: str, shape: str) -> None:
    texts = texts_of(news_dir, name, shape)
    flagged = [
        (reasons, text[:100]) for reasons, text in zip(reasons_for(texts, preset), texts, strict=True) if reasons
    ]
    assert len(flagged) <= len(texts) / 100, flagged[:5]


def test_a_preset_drops_what_a_model_writes_badly() -> None:
    text = "Учёные нашли на Луне воду, и теперь её можно будет пить."
    bad = [
        "Учёные",
        "УЧЁНЫЕ НАШЛИ НА ЛУНЕ ВОДУ",
        "The scientists have found water",
        "@@@ Учёные *** нашли ### на Луне",
        "нет " * 20,
    ]
    assert reasons_for([text], "short-ru") == [[]]
    assert all(reasons_for(bad, "short-ru"))


@pytest.mark.parametrize("shape", ["articles", "700 characters", "titles", "4 words"])
@pytest.mark.parametrize(("name", "language"), [("ru_news_nplus1", 0), ("en_news_agnews", 1)])
def test_the_language_of_a_human_text_is_found(news_dir: Path, name: str, shape: str, language: int) -> None:
    texts = texts_of(news_dir, name, shape)
    found = languages_of(sample(texts))
    assert np.mean(found == language) >= 0.994, [
        text for text, each in zip(texts, found, strict=True) if each != language
    ]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Съешь ещё этих мягких французских булок", "ru"),
        ("Уряд схвалив новий закон про освіту", "other"),
        ("Урад прыняў новы закон аб адукацыі", "other"),
        ("Влада је усвојила нови закон о образовању", "other"),
        ("Ќе одиме на џез концерт и ќе јадеме", "other"),
        ("Wieczór był piękny, więc poszliśmy na spacer", "other"),
        ("Der schöne grüne Käfer läuft über die Straße", "other"),
        ("The café in Montréal opened again", "en"),
        ("Microsoft купила стартап за 2 миллиарда", "ru"),
        ("В Киеве открыли музей «Київ» имени художника Малевича", "ru"),
        ("2015 — 2020", "other"),
        ("東京で新しい美術館が開館した", "other"),
        ("И\u0306од и е\u0308ж", "ru"),  # decomposed letters
    ],
)
def test_letters_of_other_languages_are_seen(text: str, language: str) -> None:
    assert reasons_for([text], {"language": language}) == [[]]
    assert reasons_for([text], {"language": [each for each in ("ru", "en", "other") if each != language]}) == [
        ["language"]
    ]


def sample(texts: list[str]) -> Sample:
    def no_prompts() -> Words:
        raise AssertionError

    return Sample(texts, no_prompts)
