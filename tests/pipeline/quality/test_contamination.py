"""Runs of 13 words of an evaluation set are found, with the row that they are from."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pipeline.quality.tables import config_for, generated
from tirazh.errors import InputError, RequestError
from tirazh.pipeline.quality import contamination
from tirazh.pipeline.quality.characters import Characters
from tirazh.pipeline.quality.contamination import NGRAM, EvaluationSet, evaluation_ngrams, split_against
from tirazh.pipeline.quality.judge import judge
from tirazh.pipeline.quality.words import Words
from tirazh.pipeline.storage.filesystem import Storage

RUN = "раз два три четыре пять шесть семь восемь девять десять одиннадцать двенадцать тринадцать"


def written(folder: Path, name: str, **columns: list[object]) -> str:
    pl.DataFrame(columns).write_parquet(folder / name)
    return str(folder / name)


def evaluation_of(*uris: str) -> EvaluationSet:
    found = evaluation_ngrams(uris, Storage())
    assert found is not None
    return found


def contaminates(evaluation: EvaluationSet, texts: list[str]) -> list[bool]:
    return list(evaluation.contaminates(Words(Characters(texts))))


def test_planted_runs_of_fifteen_words_are_all_found_with_their_row(news_dir: Path) -> None:
    evaluation = evaluation_of(str(news_dir / "ru_news_nplus1.test.parquet"))
    held_out = pl.read_parquet(news_dir / "ru_news_nplus1.test.parquet")["text"].to_list()
    train = [
        text[:700] for text in pl.read_parquet(news_dir / "ru_news_nplus1.train.parquet")["text"].to_list()[:2_000]
    ]
    flagged = contaminates(evaluation, train)
    assert sum(flagged) <= 0.04 * len(train)  # boilerplate that both halves share
    hosts = [text.split() for text, is_flagged in zip(train, flagged, strict=True) if not is_flagged]
    chance = random.Random(18)
    long = [place for place, text in enumerate(held_out) if len(text.split()) > 70]
    for length in (15, 30, 60):
        planted, sources = [], []
        for host in hosts[:25]:
            source = chance.choice(long)
            words = held_out[source].split()
            start, at = chance.randrange(len(words) - length), chance.randrange(len(host))
            planted.append(" ".join([*host[:at], *words[start : start + length], *host[at:]]))
            sources.append(source)
        assert contaminates(evaluation, planted) == [True] * 25
        found = evaluation.first_matches(planted)
        assert sum(match is not None and match[1] == source for match, source in zip(found, sources, strict=True)) >= 24


def test_a_run_is_found_whatever_its_case_punctuation_and_yo(tmp_path: Path) -> None:
    evaluation = evaluation_of(written(tmp_path, "eval.parquet", question=["нет", f"Ещё {RUN}"]))
    changed = RUN.upper().replace(" ", " — ").replace("ТРИ", "«три»,", 1)
    texts = [f"Вот: еще {changed}!", f"ЕЩЁ {RUN}", RUN.rpartition(" ")[0], f"{RUN.replace('семь', 'ноль')} {RUN[:40]}"]
    assert contaminates(evaluation, texts) == [True, True, False, False]


def test_a_run_across_two_texts_does_not_match(tmp_path: Path) -> None:
    evaluation = evaluation_of(written(tmp_path, "eval.parquet", question=[RUN]))
    half = len(RUN) // 2
    assert contaminates(evaluation, [RUN[:half], RUN[half:], "", RUN]) == [False, False, False, True]


def test_all_text_columns_of_all_files_are_read_and_the_first_row_is_named(tmp_path: Path) -> None:
    first = written(
        tmp_path, "a.parquet", question=["нет"] * 3, answer=["нет", "нет", f"{RUN} конец"], number=[1, 2, 3]
    )
    second = written(tmp_path, "b.parquet", text=["мало", f"{RUN} конец", RUN.replace("раз", "ноль")])
    evaluation = evaluation_of(first, second)
    texts = [RUN, "кот", f"да {RUN.replace('раз', 'ноль')} да"]
    assert evaluation.first_matches(texts) == [(first, 2), None, (second, 2)]
    assert evaluation_of(str(tmp_path)).first_matches(texts) == evaluation.first_matches(texts)


def test_a_contaminated_row_gets_the_last_reason(tmp_path: Path) -> None:
    evaluation = evaluation_of(written(tmp_path, "eval.parquet", question=[RUN]))
    table = generated([RUN, "кот"])
    config = config_for(table, filters={"language": "en"}, evaluation=pickle.loads(pickle.dumps(evaluation)))
    assert judge(table, config)[1] == [["language", "contaminated"], ["language"]]
    assert judge(table, config_for(table, evaluation=evaluation))[1] == [["contaminated"], []]


def test_outputs_and_evaluation_sets_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "output" / "_tirazh").mkdir(parents=True)
    (tmp_path / "sets").mkdir()
    file = written(tmp_path, "eval.parquet", question=[RUN])
    against = [str(tmp_path / "output") + "/", file, str(tmp_path / "sets"), str(tmp_path / "*.parquet")]
    outputs, sets = split_against(against, Storage())
    assert outputs == (str(tmp_path / "output"),)
    assert sets == (file, str(tmp_path / "sets"), str(tmp_path / "*.parquet"))
    assert evaluation_ngrams((), Storage()) is None


def test_evaluation_sets_that_cannot_be_used_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = written(tmp_path, "short.parquet", title=["Короткий заголовок"])
    numbers = written(tmp_path, "numbers.parquet", number=[1])
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(RequestError, match=r"no text of .*short\.parquet has 13 words"):
        evaluation_of(short)
    with pytest.raises(InputError, match=r"numbers\.parquet has no column of text"):
        evaluation_of(numbers)
    with pytest.raises(InputError, match=r"broken\.parquet cannot be read"):
        evaluation_of(str(tmp_path / "broken.parquet"))
    with pytest.raises(InputError, match="missing"):
        evaluation_of(str(tmp_path / "missing.parquet"))
    monkeypatch.setattr(contamination, "MAX_NGRAMS", 1)
    with pytest.raises(RequestError, match="give fewer or smaller ones"):
        evaluation_of(written(tmp_path, "large.parquet", text=[f"{RUN} и ещё"]))


@given(st.lists(st.lists(st.sampled_from(["а", "б", "в"]), max_size=20), max_size=6))
def test_ngrams_are_those_of_a_plain_loop(texts: list[list[str]]) -> None:
    """Equal n-grams have equal hashes, and different ones different hashes."""
    words = Words(Characters([" ".join(text) for text in texts]))
    for size in (1, 2, NGRAM):
        plain = [
            (row, tuple(text[start : start + size]))
            for row, text in enumerate(texts)
            for start in range(len(text) - size + 1)
        ]
        grams = words.ngrams(size)
        assert grams.rows.tolist() == [row for row, _ in plain]
        assert len(set(grams.hashes.tolist())) == len({gram for _, gram in plain})
        named = dict(zip((gram for _, gram in plain), grams.hashes.tolist(), strict=True))
        assert [named[gram] for _, gram in plain] == grams.hashes.tolist()


def test_hashes_are_frozen() -> None:
    """Hashes of two machines and of two nights are compared."""
    assert Words(Characters(["Ёлка и cat 🙂"])).hashes.tolist() == FROZEN


FROZEN = [438122354563480281, 14878710991571628018, 7723392403132340172]
