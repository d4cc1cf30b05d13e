"""What is scored for a classify job: labels in the template, several questions, premise, priors, several orders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from tests.model.tokenizer_examples import KINDS, write_example
from tests.pipeline.prompts.scored_rows import label_scores, prepare, probabilities, prompts_of, tiny_llama
from tirazh.errors import InputError, RequestError
from tirazh.model.tokenizer import Tokenizer, load_tokenizer
from tirazh.pipeline import schema

ROWS = ["Команда выиграла матч.", "Банк поднял ставку", "team won: 7", "«Тема»", "да!\n и"]
LABELS = {"sport": ["sport", "football"], "economics": "экономика", "culture": "culture"}
QUESTIONS: dict[str, Any] = {
    "topic": {"labels": LABELS, "suffix": "\nTopic:"},
    "tone": {"labels": ["good", "bad"], "suffix": "\nTone:"},
    "place": {"labels": ["New York", "York"], "suffix": "\nPlace (town):"},
}


@pytest.fixture(scope="module", params=[kind for kind in KINDS if kind != "word piece"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_example(tmp_path_factory.mktemp("tokenizer"), request.param, 1).folder


def tokenizer_of(folder: Path) -> Tokenizer:
    return load_tokenizer(str(folder))


def model_of(folder: Path) -> Any:
    return tiny_llama(tokenizer_of(folder).size)


@pytest.mark.parametrize("settings", [{}, {"scoring": "pmi", "calibrate": "contextual"}], ids=["sum", "pmi"])
def test_three_questions_in_one_pass_equal_three_jobs(folder: Path, settings: dict[str, Any]) -> None:
    model, rows = model_of(folder), ROWS[:3]
    together = prepare(folder, questions=QUESTIONS, **settings)
    parts = np.split(probabilities(together, model, rows), [3, 5], axis=1)
    for question, part in zip(QUESTIONS.values(), parts, strict=True):
        labels = question["labels"]
        labels = labels if isinstance(labels, dict) else dict.fromkeys(labels)
        alone = prepare(folder, labels=labels, template="{{ text }}" + question["suffix"], **settings)
        # float32: the last digits depend on the shape of a product, and so on the CPU.
        assert part == pytest.approx(probabilities(alone, model, rows), abs=1e-5)


def test_white_space_before_all_suffixes_ends_the_prompt_of_a_row(model_dir: Path) -> None:
    prepared, tokenizer = prepare(model_dir, questions=QUESTIONS), tokenizer_of(model_dir)
    (ids,) = prompts_of(prepared, ["Матч."]).column(schema.PROMPT_IDS).to_pylist()
    assert tokenizer.decode(ids) == "Матч.\n"
    job = prepared.engine_job
    assert tokenizer.decode(job.labels[0]) == "Topic: sport"
    assert tokenizer.decode(job.labels[0][: job.label_starts[0]]) == "Topic:"


def joining(folder: Path) -> Path:
    """A tokenizer that joins a full stop with a line break behind it, as those of Llama 3 and Qwen do."""
    letters = sorted({*"abcdeTnop: .\n", "</s>"})
    vocabulary = {token: index for index, token in enumerate([*letters, ".\n"])}
    rust = tokenizers.Tokenizer(models.BPE(vocabulary, [(".", "\n")]))
    rust.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(r" ?\w+|[.:]+\n*|\s"), "isolated")
    rust.decoder = decoders.Fuse()
    rust.add_special_tokens(["</s>"])
    rust.save(str(folder / "tokenizer.json"))
    return folder


def test_a_tokenizer_may_join_the_end_of_a_text_with_a_line_break(tmp_path: Path) -> None:
    asked = {"t": {"labels": ["a", "b"], "suffix": "\nTop:"}, "n": {"labels": ["a", "c"], "suffix": "\nTone:"}}
    prepared, tokenizer = prepare(joining(tmp_path), questions=asked), tokenizer_of(tmp_path)
    table = prompts_of(prepared, ["a b.", "a b"])
    assert table.column(schema.ROW_ERROR).to_pylist() == [None, None]
    first, _ = table.column(schema.PROMPT_IDS).to_pylist()
    whole = tokenizer.encode("a b.\nTop: a")
    assert [*first, *prepared.engine_job.labels[0]] == whole


def test_a_row_whose_end_a_suffix_would_change_gets_an_error(tmp_path: Path) -> None:
    asked = {"t": {"labels": ["a", "b"], "suffix": "\nTop:"}, "n": {"labels": ["a", "c"], "suffix": ".\nTone:"}}
    errors = prompts_of(prepare(joining(tmp_path), questions=asked), ["a b", "a b."]).column(schema.ROW_ERROR)
    assert errors[0].as_py() is None
    assert "let --template end with fixed text" in errors[1].as_py()


def test_questions_with_the_same_suffix_and_words_share_their_scores(model_dir: Path) -> None:
    asked = {"a": {"labels": ["x", "y"], "suffix": "\nT:"}, "b": {"labels": ["y", "z"], "suffix": "\nT:"}}
    prepared = prepare(model_dir, questions=asked)
    assert len(prepared.engine_job.labels) == 3
    scores = label_scores(prepared, model_of(model_dir), ROWS)
    assert (scores[:, 1] == scores[:, 2]).all()


def test_the_template_of_several_questions_is_the_text_alone(model_dir: Path) -> None:
    assert prepare(model_dir, questions=QUESTIONS).config.template.source == "{{ text }}"


def test_a_template_may_go_over_the_labels_and_they_are_the_shared_prefix(model_dir: Path) -> None:
    labels = {"sport": {"words": "sport", "description": "матчи и турниры"}, "other": {"description": "всё другое"}}
    template = "{% for label in labels %}{{ label.name }} ({{ label.words }}): {{ label.description }}\n{% endfor %}"
    prepared = prepare(model_dir, labels=labels, template=template + "{{ text }}\nTopic:")
    (ids,) = prompts_of(prepared, ["Матч"]).column(schema.PROMPT_IDS).to_pylist()
    head = "sport (sport): матчи и турниры\nother (other): всё другое\n"
    assert tokenizer_of(model_dir).decode(ids) == head + "Матч\nTopic:"
    assert tokenizer_of(model_dir).decode(prepared.engine_job.prefix_token_ids) == head


def test_a_template_that_prints_a_missing_description_is_refused(model_dir: Path) -> None:
    template = "{% for label in labels %}{{ label.description }}{% endfor %}{{ text }}:"
    with pytest.raises(RequestError, match=r"'description' of an item is null.*give every label a description"):
        prepare(model_dir, labels={"a": None, "b": None}, template=template)
    with pytest.raises(InputError, match="'colour' of the items of the labels"):
        prepare(model_dir, labels={"a": None, "b": None}, template=template.replace("description", "colour"))


@pytest.mark.parametrize(
    ("template", "premise"),
    [
        ("{{ text }}\nTopic:", "\nTopic:"),
        ("News: {{ text | upper }} ({{ text }}). Topic is", "). Topic is"),
        ("{{ text }}", "<|endoftext|>"),
    ],
)
def test_the_premise_is_what_follows_the_last_variable(model_dir: Path, template: str, premise: str) -> None:
    labels = prepare(model_dir, labels=LABELS, template=template, scoring="pmi").labels
    tokenizer = tokenizer_of(model_dir)
    assert labels is not None
    ends = labels.premise == tokenizer.end_token_ids
    assert ("<|endoftext|>" if ends else tokenizer.decode(labels.premise)) == premise


def test_batch_calibration_gives_the_labels_of_the_sample_equal_weight(model_dir: Path) -> None:
    model = model_of(model_dir)
    plain = probabilities(prepare(model_dir, labels=LABELS), model, ROWS)
    calibrated = probabilities(prepare(model_dir, labels=LABELS, calibrate="batch", sample=ROWS), model, ROWS)
    expected = plain / plain.mean(axis=0)
    assert calibrated == pytest.approx(expected / expected.sum(axis=1, keepdims=True), abs=1e-9)


@pytest.fixture
def examples(write_input: Callable[..., Path]) -> str:
    texts = ["Гол", "Банк поднял ставку", "Театр открыл сезон"]
    return str(write_input("examples.parquet", text=texts, label=["sport", "economics", "culture"]))


@pytest.mark.parametrize("calibrate", [None, "contextual", "batch"])
def test_several_orders_are_the_mean_of_jobs_with_one_order(
    model_dir: Path, examples: str, calibrate: str | None
) -> None:
    settings: dict[str, Any] = {"labels": LABELS, "examples": examples, "calibrate": calibrate, "sample": ROWS}
    settings["sample"] = ROWS if calibrate == "batch" else None
    prepared, model = prepare(model_dir, permutations=3, shots=3, **settings), model_of(model_dir)
    assert prepared.labels is not None
    alone = []
    for order, head in enumerate(prepared.labels.heads):
        own = {"layout": replace(prepared.labels.layout, orders=1), "heads": ((),)}
        first = len(prepared.labels.heads[0])
        priors = tuple((*head, *ids[first:]) for ids in prepared.labels.prior_prompts)
        one = replace(
            prepared,
            config=replace(prepared.config, head_ids=head),
            engine_jobs=(prepared.engine_jobs[order],),
            labels=replace(prepared.labels, prior_prompts=priors, **own),
        )
        alone.append(probabilities(one, model, ROWS))
    assert len({each.tobytes() for each in alone}) == 3
    assert probabilities(prepared, model, ROWS) == pytest.approx(sum(alone) / 3, abs=1e-5)


def test_the_longest_head_of_several_orders_fits_in_every_row(model_dir: Path, examples: str) -> None:
    prepared = prepare(model_dir, labels=LABELS, examples=examples, permutations=6, shots=3)
    assert prepared.labels is not None
    (ids,) = prompts_of(prepared, ["слово " * 500]).column(schema.PROMPT_IDS).to_pylist()
    longest = max(len(request.prompt_token_ids) for request in prepared.labels.of_prompts([ids]))
    assert longest + max(map(len, prepared.engine_job.labels)) <= prepared.config.seq_length
