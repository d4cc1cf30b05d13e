"""The few-shot examples of classify as heads of the prompts: which, how many, and never past the context."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tirazh.errors import InputError, RequestError
from tirazh.model.tokenizer import Tokenizer
from tirazh.pipeline import schema
from tirazh.pipeline.prompts.encode import PromptStep
from tirazh.pipeline.prompts.few_shot import TEXT_SHARE, FewShot, build_heads
from tirazh.pipeline.prompts.prepare import PreparedPrompts, prepare_prompts
from tirazh.pipeline.prompts.source import prompt_source
from tirazh.pipeline.spec import ClassifySpec

LABELS = {"sport": "спорт", "economics": ["экономика", "финансы"]}
SPORT = ["Гол", "Матч отложен", "Тренер ушёл", "Хоккей"]
MONEY = ["Банк поднял ставку", "Рубль вырос"]
ROWS = {"text": [*SPORT, *MONEY], "label": ["sport"] * 4 + ["economics"] * 2}
Prepare = Callable[..., PreparedPrompts]


@pytest.fixture(scope="session")
def prepare(model_dir: Path, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Prepare:
    path = tmp_path_factory.mktemp("few-shot") / "examples.parquet"

    def make(rows: dict[str, list[Any]] | None = None, *, seq_length: int = 512, **settings: Any) -> PreparedPrompts:
        pq.write_table(pa.table(ROWS if rows is None else rows), path)
        if "questions" not in settings:
            settings.setdefault("labels", LABELS)
        spec = ClassifySpec(input=("in",), output="out", examples=str(path), **settings)
        return prepare_prompts(
            spec,
            tokenizer,
            prompt_source(spec),
            tokenizer_dir=str(model_dir),
            seq_length=seq_length,
            examples=path.read_bytes(),
        )

    return make


def written(text: str, words: str) -> str:
    return f"{text}\nТема: {words}"


ALL = "\n\n".join([*(written(text, "спорт") for text in SPORT), *(written(text, "экономика") for text in MONEY)])


def ids_of(prepared: PreparedPrompts, *texts: str) -> list[list[int]]:
    table = pa.table({"text": list(texts), schema.REPETITION: pa.array([0] * len(texts), pa.int32())})
    done = PromptStep(prepared.config)(table)
    assert done.column(schema.ROW_ERROR).null_count == len(texts)
    ids: list[list[int]] = done.column(schema.PROMPT_IDS).to_pylist()
    return ids


def test_without_a_number_all_examples_are_taken_in_file_order(prepare: Prepare) -> None:
    few_shot = prepare().few_shot
    assert few_shot.heads == (ALL,)
    assert few_shot.chosen == (1, 2, 3, 4, 5, 6)
    assert few_shot.summary() == {
        "examples": 6,
        "rows": [1, 2, 3, 4, 5, 6],
        "tokens": few_shot.tokens,
        "orders": 1,
        "examples_per_label": {"sport": 4, "economics": 2},
    }


def test_without_examples_the_head_is_empty(model_dir: Path, tokenizer: Tokenizer) -> None:
    spec = ClassifySpec(input=("in",), output="out", labels=LABELS)
    prepared = prepare_prompts(spec, tokenizer, prompt_source(spec), tokenizer_dir=str(model_dir), seq_length=64)
    assert prepared.few_shot == FewShot()
    assert prepared.few_shot.heads == ("",)
    assert prepared.few_shot.summary() is None


def test_shots_takes_so_many_of_each_label_and_writes_a_label_with_its_words(prepare: Prepare) -> None:
    few_shot = prepare(shots=4).few_shot
    assert dict(few_shot.labels) == {"": {"sport": 2, "economics": 2}}
    assert sorted(few_shot.heads[0].split("\n\n")) == sorted(
        written(ROWS["text"][row - 1], "спорт" if row <= 4 else "экономика") for row in few_shot.chosen
    )
    assert not few_shot.notes


def test_every_prompt_begins_with_the_head(prepare: Prepare, tokenizer: Tokenizer) -> None:
    prepared = prepare(shots=2)
    (ids,) = ids_of(prepared, "Кубок")
    assert tokenizer.decode(ids) == f"{prepared.few_shot.heads[0]}\n\nКубок\nТема:"


@given(seed=st.integers(0, 100), permutations=st.integers(1, 10))
def test_each_permutation_is_another_order_of_the_same_examples(prepare: Prepare, seed: int, permutations: int) -> None:
    few_shot = prepare(shots=4, permutations=permutations, seed=seed).few_shot
    assert len(few_shot.heads) == len(set(few_shot.heads)) == permutations
    assert len({tuple(sorted(head.split("\n\n"))) for head in few_shot.heads}) == 1


def test_more_permutations_than_orders_are_said(prepare: Prepare) -> None:
    few_shot = prepare(shots=2, permutations=5).few_shot
    assert len(few_shot.heads) == 2
    assert few_shot.notes == ("2 examples have only 2 orders, which are averaged instead of --permutations 5",)


def test_a_label_with_too_few_examples_is_filled_up_from_the_others_and_said(prepare: Prepare) -> None:
    few_shot = prepare(shots=6).few_shot
    assert dict(few_shot.labels)[""] == {"sport": 4, "economics": 2}
    assert few_shot.notes == ("--examples has too few examples of 'economics', so there are more of the other labels",)


def test_a_label_without_an_example_is_named(prepare: Prepare) -> None:
    few_shot = prepare(shots=2, labels={**LABELS, "culture": None}).few_shot
    assert few_shot.notes == ("--examples has no example of 'culture'",)
    few_shot = prepare(shots=1).few_shot
    (note,) = few_shot.notes
    assert note in {"no example of 'sport' was taken", "no example of 'economics' was taken"}


def test_more_shots_than_different_rows_are_refused(prepare: Prepare) -> None:
    with pytest.raises(InputError, match="has 6 rows, fewer than --shots 7"):
        prepare(shots=7)
    with pytest.raises(InputError, match="has 1 different rows, fewer than --shots 2"):
        prepare({"text": ["Гол", "Гол"], "label": ["sport", "sport"]}, shots=2)
    with pytest.raises(InputError, match="has 0 rows, fewer than --shots 2"):
        prepare({"text": pa.array([], pa.string()), "label": pa.array([], pa.string())}, shots=2)  # type: ignore[dict-item]


def test_a_misspelt_label_of_an_example_is_refused_with_a_hint(prepare: Prepare) -> None:
    with pytest.raises(
        InputError, match="row 1: 'sports' is not one of the labels sport, economics; did you mean sport"
    ):
        prepare({"text": ["Гол"], "label": ["sports"]})


def test_examples_that_do_not_fit_are_refused_with_the_number_that_fits(prepare: Prepare) -> None:
    for settings in ({}, {"shots": 6}):
        with pytest.raises(
            RequestError, match=r"^the 6 examples have .*; \d examples fit, so give --shots \d or "
        ) as refused:
            prepare(seq_length=128, **settings)
        fitting = int(str(refused.value).split(" examples fit")[0][-1])
        prepare(seq_length=128, shots=fitting)
        with pytest.raises(RequestError, match=f"; {fitting} examples fit"):
            prepare(seq_length=128, shots=fitting + 1)


@given(budget=st.integers(20, 200), seq_length=st.integers(64, 256), seed=st.integers(0, 50))
def test_a_token_budget_is_never_passed_and_leaves_space_for_the_text(
    prepare: Prepare, tokenizer: Tokenizer, budget: int, seq_length: int, seed: int
) -> None:
    shortest = len(tokenizer.encode(written("Гол", "спорт") + "\n\n"))
    settings = {"shot_tokens": budget, "seq_length": seq_length, "seed": seed, "permutations": 3}
    template = tokenizer.encode("\nТема:")
    reserved = max(len(tokenizer.encode(" " + words)) for words in ("спорт", "экономика"))
    if min(budget, seq_length - seq_length // TEXT_SHARE - len(template) - reserved) < shortest:
        with pytest.raises(RequestError, match="no example fits: the shortest of --examples has "):
            prepare(**settings)
        return
    prepared = prepare(**settings)
    few_shot = prepared.few_shot
    heads = [tokenizer.encode(head + few_shot.separator) for head in few_shot.heads]
    assert max(map(len, heads)) <= budget
    space = seq_length - max(map(len, heads)) - len(template) - prepared.config.reserved_tokens
    assert space >= seq_length // TEXT_SHARE
    # A text of any length is cut, so that the prompt with all examples fits.
    (ids,) = ids_of(prepared, "Кубок " * 500)
    assert len(ids) <= seq_length - prepared.config.reserved_tokens
    assert ids[: few_shot.tokens - 8] == tokenizer.encode(few_shot.heads[0])[: few_shot.tokens - 8]


def test_a_larger_budget_takes_more_examples(prepare: Prepare) -> None:
    counts = [len(prepare(shot_tokens=budget).few_shot.chosen) for budget in (30, 60, 90, 120, 400)]
    assert counts == sorted(counts)
    assert counts[0] >= 1
    assert counts[-1] == 6


def test_an_example_shows_every_question_with_its_words(prepare: Prepare, tokenizer: Tokenizer, tmp_path: Path) -> None:
    def build(rows: dict[str, list[str]], questions: dict[str, Any]) -> FewShot:
        pq.write_table(pa.table(rows), tmp_path / "examples.parquet")
        spec = ClassifySpec(
            input=("in",), output="out", questions=questions, examples=str(tmp_path / "examples.parquet")
        )
        config = prepare(template="{{ text }}").config
        config = replace(config, head_ids=(), head_text="")
        return build_heads(spec, (tmp_path / "examples.parquet").read_bytes(), config, tokenizer)

    questions = {
        "topic": {"labels": {"sport": "спорт", "economics": "экономика"}, "suffix": "\nТема:"},
        "tone": {"labels": ["good", "bad"], "suffix": "\nТон:"},
    }
    rows = {"text": ["Гол", "Рубль упал"], "topic": ["sport", "economics"], "tone": ["good", "bad"]}
    few_shot = build(rows, questions)
    assert few_shot.heads == (
        "Гол\nТема: спорт\n\nГол\nТон: good\n\nРубль упал\nТема: экономика\n\nРубль упал\nТон: bad",
    )
    summary = few_shot.summary()
    assert summary is not None
    assert summary["examples_per_label"] == {"topic": {"sport": 1, "economics": 1}, "tone": {"good": 1, "bad": 1}}
    with pytest.raises(InputError, match="no column 'tone'"):
        build({name: rows[name] for name in ("text", "topic")}, questions)


def test_a_linear_head_takes_no_examples_into_the_prompts(prepare: Prepare) -> None:
    assert prepare(head="linear").few_shot == FewShot()


@pytest.mark.parametrize("tokens", [("<|endoftext|>",), ("<pad>", "<|endoftext|>")])
def test_control_tokens_at_the_start_of_the_template_separate_the_examples(
    prepare: Prepare, tokenizer: Tokenizer, tokens: tuple[str, ...]
) -> None:
    """`</s><s>{{ text }}` encloses every example in <s> and </s>, without an empty line between them."""
    rows = {"text": ["Гол", "Рубль вырос <|endoftext|>"], "label": ["sport", "economics"]}
    prepared = prepare(rows, template="".join(tokens) + "{{ text }}\nТема:")
    marks = [tokenizer.control_tokens[name] for name in tokens]
    text = tokenizer.encode
    (ids,) = ids_of(prepared, "Матч <pad>")
    assert ids == [
        *marks,
        *text("Гол\nТема: спорт"),
        *marks,
        *text("Рубль вырос <|endoftext|>\nТема: экономика"),
        *marks,
        *text("Матч <pad>\nТема:"),
    ]


def test_control_tokens_inside_of_the_template_are_tokens_in_the_examples_too(
    prepare: Prepare, tokenizer: Tokenizer
) -> None:
    prepared = prepare({"text": ["Гол"], "label": ["sport"]}, template="Новость: {{ text }}<pad>Тема:")
    pad, text = tokenizer.control_tokens["<pad>"], tokenizer.encode
    (ids,) = ids_of(prepared, "Матч")
    assert ids == [
        *text("Новость: Гол"),
        pad,
        *text("Тема: спорт\n\nНовость: Матч"),
        pad,
        *text("Тема:"),
    ]


def test_the_configuration_with_its_examples_travels_to_another_process(prepare: Prepare) -> None:
    prepared = prepare(shots=2, template="<pad>{{ text }}\nТема:")
    copy = replace(prepared, config=pickle.loads(pickle.dumps(prepared.config)))
    assert ids_of(copy, "Матч") == ids_of(prepared, "Матч")
