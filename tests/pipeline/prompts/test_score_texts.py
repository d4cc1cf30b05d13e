"""The texts that `score` reads: the tokens of context and text, where one begins, and what is cut."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from tirazh.errors import InputError
from tirazh.model.checkpoints.directory import EMBEDDED_DIR
from tirazh.model.tokenizer import Tokenizer, load_tokenizer
from tirazh.pipeline import schema
from tirazh.pipeline.columns import check_columns
from tirazh.pipeline.prompts.prepare import PreparedPrompts, prepare_prompts
from tirazh.pipeline.prompts.score_texts import ScoreTextStep
from tirazh.pipeline.prompts.source import prompt_source
from tirazh.pipeline.spec import ScoreSpec

TEXT = "Курс рубля вырос на два процента."


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(str(EMBEDDED_DIR))


def prepare(tokenizer: Tokenizer, seq_length: int = 512, **settings: Any) -> PreparedPrompts:
    spec = ScoreSpec(input=("in",), output="out", **settings)
    source = prompt_source(spec)
    return prepare_prompts(spec, tokenizer, source, tokenizer_dir=str(EMBEDDED_DIR), seq_length=seq_length)


def texts(prepared: PreparedPrompts, **columns: list[str | None]) -> list[dict[str, Any]]:
    rows = ScoreTextStep(prepared.config)(pa.table(columns)).to_pylist()
    names = {"ids": schema.PROMPT_IDS, "context": schema.NUM_CONTEXT_IDS, "characters": schema.NUM_CHARACTERS}
    return [{short: row[name] for short, name in names.items()} | {"error": row[schema.ROW_ERROR]} for row in rows]


def test_a_text_without_context_stands_behind_the_end_of_text_token(tokenizer: Tokenizer) -> None:
    (text,) = texts(prepare(tokenizer), text=[TEXT])
    assert text["ids"] == [tokenizer.end_token_id, *tokenizer.encode(TEXT)]
    assert (text["context"], text["characters"], text["error"]) == (1, len(TEXT), None)


def test_the_context_is_not_part_of_the_text(tokenizer: Tokenizer) -> None:
    prepared = prepare(tokenizer, template="Тема: {{ topic }}\n")
    (text,) = texts(prepared, text=[TEXT], topic=["экономика"])
    context = tokenizer.encode("Тема: экономика\n")
    assert text["ids"] == [*context, *tokenizer.encode(TEXT)]
    assert text["context"] == len(context)


def test_a_space_that_is_one_token_with_the_text_moves_to_it(tokenizer: Tokenizer) -> None:
    """As in lm-evaluation-harness: " Курс" is a token of the vocabulary, a lone space before it is none of a text."""
    (text,) = texts(prepare(tokenizer, template="Новости: "), text=[TEXT])
    assert text["ids"] == tokenizer.encode("Новости: " + TEXT)
    assert text["context"] == len(tokenizer.encode("Новости:"))
    assert text["characters"] == len(TEXT)


def test_a_long_constant_context_is_the_job_s_prefix_without_its_last_token(tokenizer: Tokenizer) -> None:
    context = "Ниже стоит новость, которую написал журналист, и её тема, которую выбрал редактор отдела.\n"
    prefix = prepare(tokenizer, template=context).engine_job.prefix_token_ids
    ids = tuple(tokenizer.encode(context))
    assert prefix == ids[: len(prefix)]
    assert len(ids) - 2 <= len(prefix) < len(ids)  # behind a line break a text may begin with another one


def test_an_empty_text_has_no_tokens_of_its_own(tokenizer: Tokenizer) -> None:
    (text,) = texts(prepare(tokenizer), text=[""])
    assert (text["ids"], text["context"], text["characters"]) == ([tokenizer.end_token_id], 1, 0)


def test_a_null_is_an_error_in_its_row(tokenizer: Tokenizer) -> None:
    assert [text["error"] for text in texts(prepare(tokenizer), text=[None, TEXT])] == ["column 'text' is null", None]


def test_a_text_that_does_not_fit_is_an_error_or_truncated(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(TEXT * 9)
    (text,) = texts(prepare(tokenizer, seq_length=20), text=[TEXT * 9])
    assert text["error"] == f"the text has {len(ids)} tokens; at most 20 fit behind its context; set --truncate"
    for truncate, kept in (("right", ids[:20]), ("left", ids[-20:])):
        (text,) = texts(prepare(tokenizer, seq_length=20, truncate=truncate), text=[TEXT * 9])
        assert text["ids"][1:] == kept
        assert text["characters"] == len(tokenizer.decode(kept))


def test_a_text_of_many_characters_is_refused_before_it_is_tokenised(tokenizer: Tokenizer) -> None:
    (text,) = texts(prepare(tokenizer, seq_length=20), text=["а" * 100_000])
    assert text["error"] == "column 'text' has 100000 characters, too many for 20 tokens"


def test_a_context_of_the_text_itself_is_refused() -> None:
    spec = ScoreSpec(input=("in",), output="out", template="{{ text }}")
    with pytest.raises(InputError, match="uses the text column 'text', but is the context before the text"):
        check_columns(pa.schema({"text": pa.string()}), spec, prompt_source(spec))
