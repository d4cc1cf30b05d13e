"""The tokens of labels, what is checked of a prompt's end, and labels of which one begins another."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
import tokenizers
from tokenizers import decoders, models, normalizers

from tests.model.tiny import build_engine, run
from tirazh.errors import RequestError
from tirazh.model.checkpoints.directory import resolve_model
from tirazh.model.load import load_pretrained
from tirazh.model.requests import LabelScores, ScoreRequest
from tirazh.model.tokenizer import Tokenizer, load_tokenizer
from tirazh.pipeline import schema
from tirazh.pipeline.prompts.encode import PromptStep, cached_tokenizer
from tirazh.pipeline.prompts.label_tokens import Candidate, encode_labels, end_tokens
from tirazh.pipeline.prompts.prepare import PreparedPrompts, prepare_prompts
from tirazh.pipeline.prompts.source import prompt_source
from tirazh.pipeline.spec import ClassifySpec


def prepare(folder: str, labels: dict[str, str], template: str) -> PreparedPrompts:
    cached_tokenizer.cache_clear()
    spec = ClassifySpec(input=("in",), output="out", labels=labels, template=template)
    return prepare_prompts(spec, load_tokenizer(folder), prompt_source(spec), tokenizer_dir=folder, seq_length=128)


def step(prepared: PreparedPrompts, rows: list[str]) -> pa.Table:
    table = pa.table({"text": rows, schema.PART: [0] * len(rows), schema.REPETITION: range(len(rows))})
    return PromptStep(prepared.config)(table)


def joining(folder: Path) -> str:
    """A tokenizer that joins a full stop with the word behind it: ".▁a" is one token."""
    letters = ["<unk>", "</s>", "▁", "a", "b", "c", "."]
    vocabulary = {token: index for index, token in enumerate([*letters, "▁a", "▁b", ".▁a"])}
    merges = [("▁", "a"), ("▁", "b"), (".", "▁a")]
    rust = tokenizers.Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    rust.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    rust.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    rust.add_special_tokens(["</s>"])
    folder.mkdir(exist_ok=True)
    rust.save(str(folder / "tokenizer.json"))
    return str(folder)


def test_a_row_after_which_the_labels_have_other_tokens_gets_an_error(tmp_path: Path) -> None:
    prepared = prepare(joining(tmp_path), {"x": "a", "y": "b"}, "{{ text }}")
    errors = step(prepared, ["a b", "a b.", "b"]).column(schema.ROW_ERROR).to_pylist()
    assert errors[0] is None
    assert errors[2] is None
    assert "ends with 'a b.' the labels have other tokens" in errors[1]
    assert "let --template end with fixed text" in errors[1]


def test_a_template_with_a_fixed_end_needs_no_check(tmp_path: Path) -> None:
    prepared = prepare(joining(tmp_path), {"x": "a", "y": "b"}, "{{ text }} c")
    assert prepared.config.boundary is None
    assert step(prepared, ["a b."]).column(schema.ROW_ERROR).to_pylist() == [None]


def test_labels_with_the_same_tokens_are_refused_with_both_names(tokenizer: Tokenizer) -> None:
    with pytest.raises(RequestError, match="'a' and 'b' have the same tokens"):
        encode_labels([Candidate("a", "x"), Candidate("b", "x")], tokenizer.encode_many, "да")


def test_labels_without_tokens_are_refused(tmp_path: Path) -> None:
    rust = tokenizers.Tokenizer(models.WordLevel({"a": 0, "</s>": 1, " ": 2}, unk_token=""))
    rust.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(RequestError, match="'b' have no tokens"):
        encode_labels(
            [Candidate("a", "a"), Candidate("b", "q")],
            lambda texts: [[0] if text.endswith(" a") else [] for text in texts],
            "",
        )


def test_ends_are_scored_only_where_a_label_begins_another(tokenizer: Tokenizer) -> None:
    assert end_tokens([(1, 2), (1, 3)], tokenizer) == ()
    ends = end_tokens([(1,), (1, 3)], tokenizer)
    assert set(tokenizer.end_token_ids) <= set(ends)
    others = [tokenizer.decode([token]) for token in ends if token not in tokenizer.end_token_ids]
    assert others
    assert all(text.startswith("\n") for text in others)


def test_both_of_two_labels_win_rows_of_the_embedded_model() -> None:
    """The sum over the tokens alone gives the shorter label to every row."""
    rows = {"Президентом России является": "Владимир Путин", "Мальчика зовут": "Владимир"}
    labels = {"Владимир": "Владимир", "Владимир Путин": "Владимир Путин"}
    prepared = prepare(resolve_model("embedded"), labels, "{{ text }}")
    assert prepared.engine_job.label_ends
    prompts = step(prepared, list(rows)).column(schema.PROMPT_IDS).to_pylist()
    model = load_pretrained("embedded")
    engine = build_engine(model, job=prepared.engine_job, num_tokens=8192)
    for result, right in zip(
        run(engine, [ScoreRequest(prompt_token_ids=p) for p in prompts]), rows.values(), strict=True
    ):
        assert isinstance(result, LabelScores)
        assert list(labels)[result.logprobs.index(max(result.logprobs))] == right
