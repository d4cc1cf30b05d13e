"""Examples that are nearest to a row's text: which, in which order, and what happens where they do not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tirazh.errors import InputError, RequestError
from tirazh.model.tokenizer import Tokenizer
from tirazh.pipeline import schema
from tirazh.pipeline.prompts import few_shot
from tirazh.pipeline.prompts.encode import PromptStep
from tirazh.pipeline.prompts.nearest_shots import NearestShots
from tirazh.pipeline.prompts.prepare import PreparedPrompts, prepare_prompts
from tirazh.pipeline.prompts.source import prompt_source
from tirazh.pipeline.spec import ClassifySpec

TEXTS = ("Банк поднял ставку", "Футболист забил гол", "Театр показал премьеру", "Рубль упал к доллару")
LABELS = ("economics", "sport", "culture", "economics")
WORDS = ("экономика", "спорт", "культура", "экономика")
Prepare = Callable[..., PreparedPrompts]


def shots_of(texts: tuple[str, ...], count: int) -> NearestShots:
    return NearestShots(count, texts, tuple(f"{text}\nТема: x" for text in texts), "\n\n")


@pytest.fixture(scope="session")
def prepare(model_dir: Path, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Prepare:
    path = tmp_path_factory.mktemp("nearest") / "examples.parquet"

    def make(*, rows: dict[str, list[Any]] | None = None, seq_length: int = 256, **more: Any) -> PreparedPrompts:
        pq.write_table(pa.table(rows or {"text": list(TEXTS), "label": list(LABELS)}), path)
        labels = {"economics": "экономика", "sport": "спорт", "culture": "культура"}
        given = {"labels": labels, "shot_selection": "nearest", "shots": 2} | more
        spec = ClassifySpec(input=("in",), output="out", examples=str(path), **given)
        return prepare_prompts(
            spec,
            tokenizer,
            prompt_source(spec),
            tokenizer_dir=str(model_dir),
            seq_length=seq_length,
            examples=path.read_bytes(),
        )

    return make


def run_step(prepared: PreparedPrompts, texts: list[str | None]) -> pa.Table:
    table = pa.table({"text": pa.array(texts, pa.string()), schema.REPETITION: pa.array([0] * len(texts), pa.int32())})
    return PromptStep(prepared.config)(table)


def example(index: int) -> str:
    return f"{TEXTS[index]}\nТема: {WORDS[index]}\n\n"


def test_other_forms_of_the_same_words_are_near() -> None:
    shots = shots_of(TEXTS, 1)
    texts = ["Ставки банков", "футболисты и голы", "театральная премьера", "о рублях и долларах"]
    assert shots.choose(texts) == [[0], [1], [2], [3]]


def test_the_nearest_example_is_the_last() -> None:
    ((*_, second, first),) = shots_of(TEXTS, 4).choose(["Банк поднял курс доллара к рублю"])
    assert {first, second} == {0, 3}
    (order,) = shots_of(("гол", "гол гол матч", "театр"), 3).choose(["гол гол"])
    assert order[0] == 2


def test_an_example_with_the_text_of_the_row_is_never_taken() -> None:
    assert 0 not in shots_of(TEXTS, 3).choose([TEXTS[0]])[0]
    assert shots_of(("а б", "а б"), 2).choose(["а б"]) == [[]]


def test_of_equally_near_examples_the_first_by_content_are_taken() -> None:
    shots = shots_of(("aaa", "bbb", "ccc", "ddd"), 2)
    assert shots.choose(["zzz"]) == [[1, 0]]


@given(st.lists(st.text(alphabet="абв ", max_size=12), min_size=1, max_size=8), st.randoms())
@settings(max_examples=30)
def test_the_choice_for_a_text_does_not_depend_on_the_other_texts(texts: list[str], random: Random) -> None:
    shots = shots_of(("аб ва", "бб", "вва аб", "абвабв"), 2)
    together = dict(zip(texts, shots.choose(texts), strict=True))
    shuffled = random.sample(texts, len(texts))
    assert shots.choose(shuffled) == [together[text] for text in shuffled]
    assert [shots.choose([text])[0] for text in texts] == [together[text] for text in texts]


def test_every_prompt_has_its_own_examples_the_nearest_directly_before_the_text(
    prepare: Prepare, tokenizer: Tokenizer
) -> None:
    table = run_step(prepare(), ["Рубль и доллар: ставка банка", "Гол футболиста", None])
    first, second, none = table.column(schema.PROMPT_IDS).to_pylist()
    assert tokenizer.decode(first) == example(0) + example(3) + "Рубль и доллар: ставка банка\nТема:"
    assert tokenizer.decode(second).endswith(example(1) + "Гол футболиста\nТема:")
    assert none is None
    assert table.column(schema.ROW_ERROR).to_pylist() == [None, None, "column 'text' is null"]
    assert table.column(schema.DROPPED_SHOTS).to_pylist() == [0, 0, 0]


@given(st.lists(st.sampled_from([*TEXTS, "гол", "рубль", "\U0010e000", "театр " * 60, ""]), min_size=1), st.data())
@settings(max_examples=25)
def test_the_rows_are_the_same_for_any_cut_and_any_order_of_rows_and_examples(
    prepare: Prepare, texts: list[str | None], data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(TEXTS))))
    prepared = prepare(seq_length=96, template="<pad>{{ text }}\nТема:")
    again = prepare(
        seq_length=96,
        template="<pad>{{ text }}\nТема:",
        rows={"text": [TEXTS[each] for each in order], "label": [LABELS[each] for each in order]},
    )
    whole = run_step(prepared, texts).select([schema.PROMPT_IDS, schema.ROW_ERROR, schema.DROPPED_SHOTS])
    cut = data.draw(st.integers(0, len(texts)))
    parts = [run_step(again, part) for part in (texts[:cut], texts[cut:]) if part]
    assert pa.concat_tables(parts).select(whole.column_names).to_pylist() == whole.to_pylist()


def test_the_farthest_examples_are_dropped_before_the_text_is_cut(prepare: Prepare, tokenizer: Tokenizer) -> None:
    text = "Рубль и доллар: ставка банка"
    whole = run_step(prepare(shots=3), [text]).column(schema.PROMPT_IDS)[0].as_py()
    reserved = prepare(shots=3).config.reserved_tokens
    lengths = [len(tokenizer.encode(example(each))) for each in (0, 3)]
    rendered = text + "\nТема:"
    for seq_length in range(len(whole) + reserved, len(tokenizer.encode(rendered)) // 2 + reserved, -3):
        table = run_step(prepare(shots=3, seq_length=seq_length), [text])
        prompt = tokenizer.decode(table.column(schema.PROMPT_IDS)[0].as_py())
        dropped = table.column(schema.DROPPED_SHOTS)[0].as_py()
        if dropped < 3:
            kept = [example(0) + example(3), example(3)]
            assert prompt.endswith(rendered)
            assert dropped == 0 or prompt == kept[dropped - 1] + rendered
        else:
            assert prompt.endswith("\nТема:")
            assert text.startswith(prompt.removesuffix("\nТема:"))
    assert lengths[0] + lengths[1] < len(whole)


def test_too_few_examples_are_refused(prepare: Prepare) -> None:
    with pytest.raises(InputError, match="has 4 rows, fewer than --shots 5"):
        prepare(shots=5)
    with pytest.raises(InputError, match="has no text in any row"):
        prepare(shots=1, rows={"text": [" "], "label": ["sport"]})


def test_a_file_with_too_much_text_is_refused(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(few_shot, "MAX_ALL_CHARACTERS", 50)
    with pytest.raises(InputError, match=r"has 79 characters of text; with .* at most 50 are compared, so give fewer"):
        prepare()


def test_contextual_calibration_is_refused(prepare: Prepare) -> None:
    with pytest.raises(RequestError, match="--shot-selection nearest and --calibrate contextual"):
        prepare(calibrate="contextual")
