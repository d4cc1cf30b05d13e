"""From rows to prompt tokens: few-shot examples, truncation and row errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tirazh.errors import InputError, RequestError
from tirazh.model.tokenizer import Tokenizer
from tirazh.pipeline import schema
from tirazh.pipeline.prompts.encode import PromptStep, PromptWriter
from tirazh.pipeline.prompts.prepare import PreparedPrompts, prepare_prompts
from tirazh.pipeline.prompts.source import prompt_source
from tirazh.pipeline.spec import ClassifySpec, GenerateSpec, JobSpec

OVERRIDES = ("max_new_tokens", "temperature", "seed")
LABELS = {"sport": "спорт", "economics": "экономика"}
Prepare = Callable[..., PreparedPrompts]


@pytest.fixture(scope="session")
def prepare(model_dir: Path, tokenizer: Tokenizer) -> Prepare:
    def make(spec: JobSpec, *, seq_length: int = 256, overrides: tuple[str, ...] = ()) -> PreparedPrompts:
        return prepare_prompts(
            spec,
            tokenizer,
            prompt_source(spec),
            tokenizer_dir=str(model_dir),
            seq_length=seq_length,
            examples=read_examples(spec),
            overrides=overrides,
        )

    return make


def read_examples(spec: JobSpec) -> bytes | None:
    return Path(spec.examples).read_bytes() if isinstance(spec, ClassifySpec) and spec.examples else None


def classify(**settings: Any) -> ClassifySpec:
    return ClassifySpec(input=("in",), output="out", labels=LABELS, **settings)


def generate(**settings: Any) -> GenerateSpec:
    return GenerateSpec(input=("in",), output="out", **{"max_new_tokens": 8} | settings)


def run_step(prepared: PreparedPrompts, *, repetitions: list[int] | None = None, **columns: list[Any]) -> pa.Table:
    length = len(next(iter(columns.values())))
    added = {
        schema.PART: pa.array([0] * length, pa.int32()),
        schema.REPETITION: pa.array(repetitions or [0] * length, pa.int32()),
    }
    return PromptStep(prepared.config)(pa.table({**columns, **added}))


def prompts_of(table: pa.Table, tokenizer: Tokenizer) -> list[str | None]:
    ids = table.column(schema.PROMPT_IDS).to_pylist()
    return [None if row is None else tokenizer.decode(row) for row in ids]


def errors_of(table: pa.Table) -> list[str | None]:
    return list(table.column(schema.ROW_ERROR).to_pylist())


def test_generate_uses_the_prompt_column_unchanged(prepare: Prepare, tokenizer: Tokenizer) -> None:
    table = run_step(prepare(generate()), prompt=["Раз два", "<|endoftext|> </s>"])
    assert prompts_of(table, tokenizer) == ["Раз два", "<|endoftext|> </s>"]
    assert table.column_names[:1] == ["prompt"]


def test_classify_puts_the_text_into_its_default_template(prepare: Prepare, tokenizer: Tokenizer) -> None:
    table = run_step(prepare(classify()), text=["Матч выигран"])
    assert prompts_of(table, tokenizer) == ["Матч выигран\nТема:"]


def test_a_label_continues_the_prompt_after_one_space(prepare: Prepare, tokenizer: Tokenizer) -> None:
    job = prepare(classify(template="{{ text }}\nТема: \n")).engine_job
    assert [tokenizer.decode(ids) for ids in job.labels] == [" спорт", " экономика"]
    table = run_step(prepare(classify(template="{{ text }}\nТема: \n")), text=["Матч"])
    assert prompts_of(table, tokenizer) == ["Матч\nТема:"]


def test_a_row_without_text_is_an_error_and_other_rows_are_not_affected(prepare: Prepare, tokenizer: Tokenizer) -> None:
    table = run_step(prepare(classify()), text=[None, "", " \n", "Матч"])
    assert errors_of(table) == [
        "column 'text' is null",
        "column 'text' is empty",
        "column 'text' is empty",
        None,
    ]
    assert prompts_of(table, tokenizer) == [None, None, None, "Матч\nТема:"]


def test_a_part_with_only_bad_rows_has_the_same_column_types(prepare: Prepare) -> None:
    table = run_step(prepare(classify()), text=pa.array([None, None], pa.string()))
    assert table.schema.field(schema.PROMPT_IDS).type == pa.list_(pa.int32())
    assert table.schema.field(schema.ROW_ERROR).type == pa.string()


@pytest.mark.parametrize(("truncate", "kept"), [("right", "слово0"), ("left", "слово399")])
def test_a_long_text_is_truncated_and_the_rest_of_the_template_is_kept(
    prepare: Prepare, tokenizer: Tokenizer, truncate: str, kept: str
) -> None:
    prepared = prepare(classify(truncate=truncate))
    table = run_step(prepared, text=[" ".join(f"слово{n}" for n in range(400))])
    (prompt,) = prompts_of(table, tokenizer)
    (ids,) = table.column(schema.PROMPT_IDS).to_pylist()
    assert prompt is not None
    assert prompt.endswith("\nТема:")
    assert kept in prompt
    assert 256 - prepared.config.reserved_tokens - 1 <= len(ids) <= 256 - prepared.config.reserved_tokens


def test_a_long_prompt_is_a_row_error_in_generate_unless_truncate_is_set(prepare: Prepare) -> None:
    long = ["слово " * 400]
    (error,) = errors_of(run_step(prepare(generate()), prompt=long))
    assert error is not None
    assert error.endswith("tokens; at most 255 fit")
    table = run_step(prepare(generate(truncate="right")), prompt=long)
    assert errors_of(table) == [None]
    assert len(table.column(schema.PROMPT_IDS)[0].as_py()) <= 256 - 8


def test_a_text_of_megabytes_is_truncated_before_it_is_tokenised(prepare: Prepare) -> None:
    table = run_step(prepare(classify()), text=["я" * 5_000_000])
    assert errors_of(table) == [None]
    (error,) = errors_of(run_step(prepare(generate()), prompt=["я" * 5_000_000]))
    assert error == "column 'prompt' has 5000000 characters, too many for 256 tokens"


@given(text=st.text(min_size=1), truncate=st.sampled_from(["left", "right"]))
def test_a_truncated_prompt_fits_and_contains_a_part_of_the_text(
    prepare: Prepare, tokenizer: Tokenizer, text: str, truncate: str
) -> None:
    prepared = prepare(classify(truncate=truncate), seq_length=48)
    long = text * (400 // len(text) + 1)
    writer = PromptWriter(prepared.config, tokenizer)
    whole = writer.encode([writer.render({"text": long})])[0]
    ids = writer.fit({"text": long}, whole, prepared.config.reserved_tokens)
    assert len(ids) <= 48 - prepared.config.reserved_tokens
    assert tokenizer.decode(ids).removesuffix("\nТема:") in long


@pytest.fixture
def examples(write_input: Callable[..., Path]) -> str:
    return str(write_input("examples.parquet", text=["Гол", "Банк поднял ставку"], label=["sport", "economics"]))


def test_few_shot_examples_precede_every_prompt(prepare: Prepare, tokenizer: Tokenizer, examples: str) -> None:
    table = run_step(prepare(classify(examples=examples)), text=["Матч"])
    assert prompts_of(table, tokenizer) == ["Гол\nТема: спорт\n\nБанк поднял ставку\nТема: экономика\n\nМатч\nТема:"]


def test_few_shot_examples_are_tokenised_once_with_the_same_tokens(
    prepare: Prepare, tokenizer: Tokenizer, examples: str
) -> None:
    prepared = prepare(classify(examples=examples))
    assert prepared.config.head_ids
    table = run_step(prepared, text=["Матч"])
    (text,) = prompts_of(table, tokenizer)
    assert table.column(schema.PROMPT_IDS)[0].as_py() == tokenizer.encode(str(text))


def test_few_shot_examples_are_the_shared_prefix_of_the_job(prepare: Prepare, examples: str) -> None:
    prepared = prepare(classify(examples=examples))
    prefix = prepared.engine_job.prefix_token_ids
    assert len(prefix) > 16
    table = run_step(prepared, text=["Матч", "\nabc", " 1"])
    for ids in table.column(schema.PROMPT_IDS).to_pylist():
        assert tuple(ids[: len(prefix)]) == prefix


def test_a_job_without_examples_has_no_shared_prefix(prepare: Prepare) -> None:
    assert prepare(classify()).engine_job.prefix_token_ids == ()


def test_an_example_with_an_unknown_label_is_refused(prepare: Prepare, write_input: Callable[..., Path]) -> None:
    path = write_input("bad.parquet", text=["a"], label=["weather"])
    with pytest.raises(InputError, match="row 1: 'weather' is not one of the labels sport, economics"):
        prepare(classify(examples=str(path)))


def test_examples_without_a_label_column_are_refused(prepare: Prepare, write_input: Callable[..., Path]) -> None:
    path = write_input("bad.parquet", text=["a"])
    with pytest.raises(InputError, match="no column 'label'"):
        prepare(classify(examples=str(path)))


def test_examples_longer_than_the_sequence_length_are_refused(prepare: Prepare, examples: str) -> None:
    with pytest.raises(RequestError, match="too few for one example; give shorter examples or a larger --seq-length"):
        prepare(classify(examples=examples), seq_length=40)


def test_contextual_calibration_uses_the_template_with_texts_without_content(
    prepare: Prepare, tokenizer: Tokenizer
) -> None:
    labels = prepare(classify(calibrate="contextual")).labels
    assert labels is not None
    assert [tokenizer.decode(ids) for ids in labels.prior_prompts] == ["\nТема:", "N/A\nТема:", "[MASK]\nТема:"]
    plain = prepare(classify()).labels
    assert plain is not None
    assert plain.prior_prompts == ()
    with pytest.raises(RequestError, match="--calibrate needs a template"):
        prepare(classify(calibrate="contextual", template="{{ text }}"))


def test_labels_with_a_common_prefix_have_different_tokens(prepare: Prepare) -> None:
    spec = ClassifySpec(input=("in",), output="out", labels={"a": "x y", "b": "x z"})
    assert len(set(prepare(spec).engine_job.labels)) == 2


def test_max_new_tokens_above_the_sequence_length_is_refused(prepare: Prepare) -> None:
    with pytest.raises(RequestError, match="--max-new-tokens 300 leaves no space"):
        prepare(generate(max_new_tokens=300))


def test_invalid_sampling_parameters_of_a_row_are_row_errors(prepare: Prepare) -> None:
    table = run_step(
        prepare(generate(), overrides=OVERRIDES),
        prompt=["a"] * 6,
        max_new_tokens=[4.0, 0.0, 4.5, None, float("nan"), 999.0],
        temperature=[0.5, 0.5, 0.5, -1.0, None, None],
        seed=[1, 2, 3, 4, None, None],
    )
    assert errors_of(table) == [
        None,
        "max_new_tokens must be at least 1, not 0",
        "max_new_tokens must be an integer, not 4.5",
        "temperature must be 0 or more, not -1.0",
        None,
        "max_new_tokens 999 leaves no space for a prompt in 256 tokens",
    ]


def test_rows_with_the_same_seed_column_have_the_same_randomness(prepare: Prepare) -> None:
    prepared = prepare(generate(), overrides=("seed",))
    table = run_step(prepared, prompt=["a"] * 4, seed=[7, 7, None, None], repetitions=[0, 1, 2, 3])
    own, same, third, fourth = table.column(schema.ROW_SEED).to_pylist()
    assert own == same
    assert len({own, third, fourth}) == 3


def seeds_of(prepared: PreparedPrompts, **columns: list[Any]) -> list[Any]:
    return list(run_step(prepared, **columns).column(schema.ROW_SEED).to_pylist())


def test_the_seed_of_a_row_depends_on_its_prompt_and_its_repetition_only(prepare: Prepare) -> None:
    prepared = prepare(generate())
    first, second = seeds_of(prepared, prompt=["a", "b"])
    assert seeds_of(prepared, prompt=["b", "c", "a"])[::2] == [second, first]
    assert seeds_of(prepared, prompt=["a", "a"], repetitions=[0, 1])[0] == first
    assert len(set(seeds_of(prepared, prompt=["a", "a", "b", "b"], repetitions=[0, 1, 0, 1]))) == 4


def test_columns_that_the_prompt_does_not_use_do_not_change_the_seed(prepare: Prepare) -> None:
    prepared = prepare(generate(template="{{ topic }} {{ style }}"))
    plain = seeds_of(prepared, topic=["новости"], style=["кратко"])
    assert plain == seeds_of(prepared, topic=["новости"], style=["кратко"], id=[17])
    assert plain != seeds_of(prepared, topic=["новости "], style=["кратко"])
    # The same prompt out of other values draws other numbers.
    assert seeds_of(prepared, topic=["а б"], style=["в"]) != seeds_of(prepared, topic=["а"], style=["б в"])


def test_the_seed_of_the_job_changes_every_row(prepare: Prepare) -> None:
    one = run_step(prepare(generate(seed=1)), prompt=["a", "b"]).column(schema.ROW_SEED).to_pylist()
    two = run_step(prepare(generate(seed=2)), prompt=["a", "b"]).column(schema.ROW_SEED).to_pylist()
    assert not set(one) & set(two)
