"""Every kind of bad row gets exactly its reason, among rows of human news that get none."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from tests.pipeline.quality.tables import config_for, generated
from tirazh.pipeline.quality.contamination import evaluation_ngrams
from tirazh.pipeline.quality.judge import judge
from tirazh.pipeline.quality.stop_words import _WORDS
from tirazh.pipeline.storage.filesystem import Storage

FILTERS: list[Any] = [
    "short-ru",
    {"min_chars": 60, "max_chars": 1_000, "min_words": 8, "max_words": 150, "max_top_ngram": {"n": 2, "share": 0.25}},
    {"min_stop_words": 0.04, "max_prompt_copy": 0.5, "ends_with_punctuation": True, "max_bits_per_char": 3},
    {"expression": "topic <> 'прогноз погоды'", "name": "off_topic"},
    {"column": "title", "max_chars": 120},
]
STOP_WORDS = set(" ".join(_WORDS.values()).split())
ROWS_OF_A_KIND = 50
Row = dict[str, Any]
KINDS: dict[str, tuple[str, Callable[[Row, random.Random, list[str]], Row]]] = {}


def kind(name: str, reason: str) -> Callable[[Callable[[Row, random.Random, list[str]], Row]], None]:
    def add(change: Callable[[Row, random.Random, list[str]], Row]) -> None:
        KINDS[name] = (reason, change)

    return add


def sentence(words: list[str]) -> str:
    return f"{' '.join(words).capitalize()}."


kind("error", "error")(lambda row, chance, words: row | {"error": "the prompt has 3000 tokens"})
kind("no completion", "error")(lambda row, chance, words: row | {"completion": None})
kind("white space", "empty")(lambda row, chance, words: row | {"completion": " \n\t\u00a0"})
kind("cut at the token limit", "finished")(lambda row, chance, words: row | {"finish_reason": "length"})
kind("too long a title", "title.max_chars")(lambda row, chance, words: row | {"title": "Кот " * 40})
kind("unlikely", "max_bits_per_char")(lambda row, chance, words: row | {"bits": 7.0})
kind("wrong topic", "off_topic")(lambda row, chance, words: row | {"topic": "прогноз погоды"})
kind("capitals", "max_uppercase")(lambda row, chance, words: row | {"completion": row["completion"].upper()})
kind("copy of the prompt", "max_prompt_copy")(
    lambda row, chance, words: row | {"prompt": f"Напиши новость. {row['completion']} Ещё:"}
)
kind("no end", "ends_with_punctuation")(
    lambda row, chance, words: row | {"completion": row["completion"].rstrip('.!?…»")') + ", а также"}
)
kind("place holder", "no_placeholder")(
    lambda row, chance, words: row | {"completion": f"{row['completion']} Об этом сообщает [название издания]."}
)
kind("English", "language")(
    lambda row, chance, words: (
        row
        | {"completion": "The committee said that the report was not ready, and it would be published in the spring."}
    )
)
kind("Ukrainian", "language")(
    lambda row, chance, words: (
        row | {"completion": "Учені з'ясували, що на цій планеті ніколи не було ні води, ні життя, і шукають далі."}
    )
)


@kind("too short", "min_chars")
def _(row: Row, chance: random.Random, words: list[str]) -> Row:
    short = chance.sample([word for word in words if 3 <= len(word) <= 5], 7)
    return row | {"completion": sentence(["и", *short])}


@kind("too few words", "min_words")
def _(row: Row, chance: random.Random, words: list[str]) -> Row:
    long = chance.sample([word for word in words if 9 <= len(word) <= 12], 6)
    return row | {"completion": sentence([*long[:3], "и", *long[3:]])}


@kind("too long", "max_chars")
def _(row: Row, chance: random.Random, words: list[str]) -> Row:
    long = chance.sample([word for word in words if 8 <= len(word) <= 12], 130)
    return row | {"completion": sentence([*long[:60], *"и в на не что".split(), "по", "для", *long[60:]])}


@kind("too many words", "max_words")
def _(row: Row, chance: random.Random, words: list[str]) -> Row:
    return row | {
        "completion": sentence(chance.choices([word for word in words if len(word) in (4, 5)], k=152) + ["и"] * 8)
    }


@kind("words without spaces", "mean_word_length")
def _(row: Row, chance: random.Random, words: list[str]) -> Row:
    glued = ["".join(chance.sample(words, 3)) for _ in range(18)]
    return row | {"completion": sentence([*glued[:9], "и", "на", *glued[9:]])}


@kind("list of nouns", "min_stop_words")
def _(row: Row, chance: random.Random, words: list[str]) -> Row:
    nouns = [word for word in words if word not in STOP_WORDS and len(word) > 4]
    return row | {"completion": sentence(chance.sample(nouns, 40))}


@kind("symbols", "max_symbols")
def _(row: Row, chance: random.Random, words: list[str]) -> Row:
    marked = [f"{word} {chance.choice('#@~|★🙂=')}{chance.choice('#@~|★🙂=')}" for word in row["completion"].split()]
    return row | {"completion": f"{' '.join(marked)}."}


@kind("numbers", "max_non_letters")
def _(row: Row, chance: random.Random, words: list[str]) -> Row:
    short = [word for word in words if len(word) <= 5]
    numbers = [f"{chance.randrange(10**6, 10**7)} {chance.choice(short)} на" for _ in range(12)]
    return row | {"completion": f"{' '.join(numbers)} 1234567, 7654321, 1357902, 2468013, 8675309, 3141592."}


@kind("repeated lines", "max_duplicate_lines")
def _(row: Row, chance: random.Random, words: list[str]) -> Row:
    lines = [sentence(["и", *chance.sample(words, 12)]) for _ in range(5)]
    return row | {"completion": "\n".join([*lines, *["Подробнее."] * 5])}


@kind("a sentence three times", "max_repeated_ngrams")
def _(row: Row, chance: random.Random, words: list[str]) -> Row:
    return row | {"completion": " ".join([sentence(["и", "на", *chance.sample(words, 14)])] * 3)}


@kind("two words again and again", "max_top_ngram")
def _(row: Row, chance: random.Random, words: list[str]) -> Row:
    others = chance.sample([word for word in words if word not in STOP_WORDS], 20)
    return row | {"completion": sentence([part for word in others for part in (word, "очень", "не")])}


@kind("a run of an evaluation text", "contaminated")
def _(row: Row, chance: random.Random, words: list[str]) -> Row:
    run = row["evaluation"].split()[3:20]
    return row | {"completion": f"{row['completion']} {' '.join(run)}."}


@pytest.fixture(scope="module")
def planted(news_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Row], Path]:
    """Clean rows, and a file of evaluation texts that none of them shares a 13-gram with."""
    articles = pl.read_parquet(news_dir / "ru_news_nplus1.train.parquet")["text"].to_list()
    paragraphs = [part.strip() for article in articles for part in article.split("\n")]
    fitting = [
        text
        for text in dict.fromkeys(paragraphs)
        if 250 <= len(text) <= 600 and text.endswith(".") and text.isprintable() and "[" not in text and "<" not in text
    ]
    own = list(dict.fromkeys(text.partition(".")[0] + "." for text in fitting))
    evaluation = tmp_path_factory.mktemp("evaluation") / "eval.parquet"
    held_out = [f"{text} {number} и ещё {number} слов." for number, text in enumerate(fitting[-60:])]
    pl.DataFrame({"question": held_out}).write_parquet(evaluation)
    rows = [
        {
            "completion": text,
            "prompt": "Напиши новость науки:",
            "finish_reason": "stop",
            "error": None,
            "topic": "наука",
        }
        | {"title": own[index][:100], "bits": 1.5, "evaluation": held_out[index % 60]}
        for index, text in enumerate(fitting[:-60])
    ]
    return rows, evaluation


def test_twenty_kinds_of_bad_rows_get_exactly_their_reason(planted: tuple[list[Row], Path]) -> None:
    clean, evaluation = planted
    evaluation_set = evaluation_ngrams([str(evaluation)], Storage())
    chance = random.Random(18)
    words = sorted({word for row in clean for word in row["completion"].lower().split() if word.isalpha()})[::8]
    rows, expected = [dict(row) for row in clean[:1_000]], [[] for _ in clean[:1_000]]
    for reason, change in KINDS.values():
        for _ in range(ROWS_OF_A_KIND):
            rows.append(change(dict(chance.choice(clean)), chance, words))
            expected.append([reason])
    assert len(KINDS) >= 20
    table = generated([row["completion"] for row in rows], **_columns(rows))
    config = config_for(table, filters=FILTERS, prompt_column="prompt", evaluation=evaluation_set)
    found = judge(table, config)[1]
    wrong = [
        (want, got, row["completion"]) for want, got, row in zip(expected, found, rows, strict=True) if want != got
    ]
    human = [each for each in wrong if each[0] == []]
    assert [each for each in wrong if each[0] != []] == []
    assert len(human) <= 10, human[:3]


def _columns(rows: list[Row]) -> dict[str, Any]:
    texts = ("prompt", "finish_reason", "error", "topic", "title")
    columns = {name: pa.array([row[name] for row in rows], pa.string()) for name in texts}
    logprobs = [-row["bits"] * math.log(2) * len(row["completion"] or "") for row in rows]
    return columns | {"logprob": pa.array(logprobs, pa.float64())}
