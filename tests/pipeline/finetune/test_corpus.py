"""The training data: tokens as `classify` and `generate` encode them, roles, and rows that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.system.tiny_model import write_tiny_model
from tirazh.errors import InputError
from tirazh.jobs.settings import build_finetune_spec
from tirazh.model.training.config import ROLE_COMPLETION, ROLE_PROMPT, ROLE_TEXT
from tirazh.model.training.label_file import LabelFile
from tirazh.model.training.sequence_store import SequenceStore
from tirazh.pipeline.finetune.corpus import CorpusConfig, write_corpus, write_label_file
from tirazh.pipeline.finetune.plan import FinetunePlan, plan_finetune
from tirazh.pipeline.prompts.encode import PromptWriter
from tirazh.pipeline.prompts.prepare import prepare_prompts
from tirazh.pipeline.prompts.source import prompt_source
from tirazh.pipeline.spec import ClassifySpec

LABELS = {"economics": "экономика", "sport": "спорт"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


def planned(folder: Path, model: str, columns: dict[str, Any], **settings: Any) -> FinetunePlan:
    pq.write_table(pa.table(columns), folder / "in.parquet")
    named = {"input": folder / "in.parquet", "output": folder / "out", "model": model, "max_error_rate": 1.0}
    return plan_finetune(build_finetune_spec(named | settings))


def written(plan: FinetunePlan, folder: Path, **changes: Any) -> tuple[SequenceStore, dict[str, Any]]:
    values: dict[str, Any] = {"packing": "single", "seq_length": plan.seq_length, "limit": None, "seed": None}
    corpus = CorpusConfig(**(values | {"max_error_rate": plan.spec.max_error_rate} | changes))
    counts = write_corpus(folder / "store", plan.training, plan.storage, plan.documents(), corpus)
    return SequenceStore(folder / "store"), counts


def text_of(plan: FinetunePlan, tokens: Any) -> str:
    return plan.tokenizer.decode(tokens.tolist())


def test_all_tokens_of_a_text_and_its_end_token_are_trained_on(model: str, tmp_path: Path) -> None:
    plan = planned(tmp_path, model, {"text": ["один", "two <|endoftext|>"]})
    store, _ = written(plan, tmp_path)
    tokens, roles = store.sequence(0)
    assert tokens.tolist() == [*plan.tokenizer.encode("один"), plan.tokenizer.end_token_id]
    assert set(roles.tolist()) == {ROLE_TEXT}
    second = store.sequence(1)[0].tolist()
    assert second.count(plan.tokenizer.end_token_id) == 1  # a control token's name in a text is text


def test_a_label_has_the_tokens_that_classify_scores(model: str, tmp_path: Path) -> None:
    columns = {"text": ["Банк поднял ставку.  ", "Матч"], "topic": ["economics", "sport"]}
    plan = planned(tmp_path, model, columns, completion_column="topic", labels=LABELS)
    spec = ClassifySpec(input=("x",), output="y", labels=LABELS)
    prepared = prepare_prompts(
        spec, plan.tokenizer, prompt_source(spec), tokenizer_dir=model, seq_length=plan.seq_length
    )
    writer = PromptWriter(prepared.config, plan.tokenizer)
    store, _ = written(plan, tmp_path)
    for index, label in enumerate(prepared.engine_job.labels):
        prompt = writer.encode([writer.render({"text": columns["text"][index]})])[0]
        tokens, roles = store.sequence(index)
        assert tokens.tolist() == [*prompt, *label, plan.tokenizer.end_token_id]
        assert roles.tolist() == [ROLE_PROMPT] * len(prompt) + [ROLE_COMPLETION] * (len(label) + 1)


def test_a_long_text_is_truncated_so_that_its_label_fits(model: str, tmp_path: Path) -> None:
    columns = {"text": ["слово " * 400], "topic": ["sport"]}
    plan = planned(tmp_path, model, columns, completion_column="topic", labels=LABELS, seq_length=64)
    store, _ = written(plan, tmp_path)
    tokens, _ = store.sequence(0)
    assert 60 < len(tokens) <= 65
    assert text_of(plan, tokens).endswith("Тема: спорт")


def test_prompt_and_completion_are_joined_without_changing_white_space(model: str, tmp_path: Path) -> None:
    columns = {"q": ["2 + 2 = "], "a": ["4"]}
    plan = planned(tmp_path, model, columns, prompt_column="q", completion_column="a")
    tokens, roles = written(plan, tmp_path)[0].sequence(0)
    assert text_of(plan, tokens) == "2 + 2 = 4"
    assert roles.tolist() == [ROLE_PROMPT] * 8 + [ROLE_COMPLETION] * 2


def test_the_prompt_is_rendered_from_the_template(model: str, tmp_path: Path) -> None:
    columns = {"text": ["news"], "lang": ["en"], "a": ["!"]}
    plan = planned(tmp_path, model, columns, template="[{{ lang }}] {{ text }}:", completion_column="a")
    assert text_of(plan, written(plan, tmp_path)[0].sequence(0)[0]) == "[en] news:!"


def test_a_completion_without_a_prompt_is_plain_text(model: str, tmp_path: Path) -> None:
    columns = {"q": pa.array([None, "x"], pa.string()), "a": ["plain text", "y"]}
    plan = planned(tmp_path, model, columns, prompt_column="q", completion_column="a")
    roles = written(plan, tmp_path)[0].sequence(0)[1]
    assert set(roles.tolist()) == {ROLE_TEXT}


def test_rows_that_cannot_be_used_are_skipped_and_counted(model: str, tmp_path: Path) -> None:
    columns = {
        "q": ["fits", "x" * 100, "no answer", "fits too"],
        "a": pa.array(["yes", "too long with it", None, "  "], pa.string()),
    }
    plan = planned(tmp_path, model, columns, prompt_column="q", completion_column="a", seq_length=40)
    store, counts = written(plan, tmp_path)
    assert (len(store), counts["rows"], counts["skipped"]) == (1, 4, 3)
    place = tmp_path / "in.parquet"
    assert store.facts["skipped_reasons"] == {
        "too long": {"rows": 1, "first": f"row 2 (in {place}): the prompt has 100 tokens; at most 40 fit"},
        "null": {"rows": 1, "first": f"row 3 (in {place}): column 'a' is null"},
        "empty": {"rows": 1, "first": f"row 4 (in {place}): column 'a' is empty"},
    }


def with_faults(model: str, folder: Path, **settings: Any) -> FinetunePlan:
    """A plan over 100 rows: 10 with an unknown label, 3 without one, 16 whose text is too long, 71 good ones."""
    texts = ["матч " * 60 if row % 6 == 0 and row < 96 else "матч" for row in range(100)]
    labels: list[str | None] = ["sport"] * 100
    short = [row for row in range(100) if texts[row] == "матч"]
    for row in short[:10]:
        labels[row] = "abroad"
    for row in short[10:13]:
        labels[row] = None
    columns = {"text": texts, "topic": pa.array(labels, pa.string())}
    return planned(folder, model, columns, completion_column="topic", labels=LABELS, seq_length=64, **settings)


def test_every_row_that_is_skipped_or_cut_is_counted_by_its_reason(model: str, tmp_path: Path) -> None:
    plan = with_faults(model, tmp_path)
    store, counts = written(plan, tmp_path)
    assert {name: each["rows"] for name, each in counts["skipped_reasons"].items()} == {"unknown label": 10, "null": 3}
    assert (counts["skipped"], counts["cut_texts"], len(store)) == (13, 16, 87)
    whole = len(plan.tokenizer.encode("матч " * 60))
    assert 16 * (whole - 64) < counts["cut_tokens"] < 16 * whole
    assert counts["skipped_reasons"]["unknown label"]["first"].endswith(
        ": 'abroad' is none of the labels economics, sport"
    )
    assert {name: value for name, value in store.facts.items() if name in counts} == counts


def test_with_truncate_error_texts_that_are_too_long_are_skipped_and_counted(model: str, tmp_path: Path) -> None:
    _, counts = written(with_faults(model, tmp_path, truncate="error"), tmp_path)
    found = {name: each["rows"] for name, each in counts["skipped_reasons"].items()}
    assert found == {"unknown label": 10, "null": 3, "too long": 16}
    assert (counts["skipped"], counts["cut_texts"], counts["cut_tokens"]) == (29, 0, 0)


def test_what_is_cut_off_very_long_texts_before_they_are_encoded_counts_too(model: str, tmp_path: Path) -> None:
    text = "слово " * 40_000
    plan = planned(tmp_path, model, {"text": [text], "topic": ["sport"]}, completion_column="topic", labels=LABELS)
    _, counts = written(plan, tmp_path)
    whole = len(plan.tokenizer.encode(text))
    assert whole - 1_024 < counts["cut_tokens"] < whole


def test_an_error_about_rows_names_the_settings_that_help(model: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        written(with_faults(model, tmp_path, truncate="error", max_error_rate=0.1), tmp_path)
    assert str(caught.value).startswith("29 of 100 rows cannot be used, the first of them row 1 (in ")
    assert str(caught.value).endswith(
        "; --truncate right cuts texts that are too long, and --max-error-rate 0.29 goes on without these rows"
    )
    with pytest.raises(InputError) as caught:
        written(planned(tmp_path, model, {"text": pa.array([None], pa.string())}), tmp_path)
    assert str(caught.value).endswith("column 'text' is null")


def test_too_many_skipped_rows_are_an_error_that_names_the_first(model: str, tmp_path: Path) -> None:
    columns = {"text": ["a", "b"], "topic": ["sport", "sports"]}
    plan = planned(tmp_path, model, columns, completion_column="topic", labels=LABELS, max_error_rate=0.1)
    with pytest.raises(InputError, match=r"1 of 2 rows cannot be used, the first of them row 2 .*'sports' is none of"):
        written(plan, tmp_path)


def test_limit_takes_the_first_rows(model: str, tmp_path: Path) -> None:
    plan = planned(tmp_path, model, {"text": [str(number) for number in range(9)]})
    store, counts = written(plan, tmp_path, limit=4)
    assert counts["documents"] == 4
    assert [text_of(plan, store.sequence(index)[0]) for index in range(len(store))] == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("settings", "packing"),
    [
        ({}, "stream"),
        ({"prompt_column": "text", "completion_column": "label"}, "whole"),
        ({"completion_column": "label", "labels": LABELS}, "single"),
        ({"completion_column": "label", "labels": LABELS, "packing": "whole"}, "whole"),
        ({"label_input": "in.parquet", "labels": LABELS}, "stream"),
    ],
)
def test_auto_packing_follows_the_rows(
    settings: dict[str, Any], packing: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = planned(tmp_path, model, {"text": ["матч"], "label": ["sport"]}, **settings)
    assert plan.packing == packing


def test_documents_that_are_packed_whole_stay_apart(model: str, tmp_path: Path) -> None:
    plan = planned(tmp_path, model, {"text": ["один", "два", "три"]})
    whole, joined = (written(plan, tmp_path / packing, packing=packing)[0] for packing in ("whole", "stream"))
    assert [text_of(plan, tokens[:-1]) for tokens, _ in whole.texts(0)] == ["один", "два", "три"]
    assert len(joined.texts(0)) == 1


def test_the_seed_shuffles_documents_before_packing(model: str, tmp_path: Path) -> None:
    plan = planned(tmp_path, model, {"text": [f"document {number}" for number in range(40)]})
    joined = []
    for seed in (1, 1, 2, None):
        store, _ = written(plan, tmp_path, packing="whole", seed=seed)
        joined.append([store.sequence(index)[0].tolist() for index in range(len(store))])
    assert joined[0] == joined[1]
    assert joined[0] != joined[2]
    assert joined[0] != joined[3]


def test_labelled_rows_become_prompts_with_space_for_a_label(model: str, tmp_path: Path) -> None:
    columns = {"text": ["длинный " * 200, "матч"], "label": ["economics", "sport"]}
    plan = planned(tmp_path, model, columns, labels=LABELS, label_input=tmp_path / "in.parquet", seq_length=64)
    assert plan.labelled is not None
    maker = plan.labelled_prompts()
    corpus = CorpusConfig(packing="single", seq_length=64, limit=None, seed=None, max_error_rate=0.0)
    write_corpus(tmp_path / "labels", plan.labelled, plan.storage, maker, corpus)
    write_label_file(tmp_path / "labels", maker, plan.label_tokens())
    labels, store = LabelFile.read(tmp_path / "labels"), SequenceStore(tmp_path / "labels")
    assert labels.gold == (0, 1)
    longest = max(map(len, labels.token_ids))
    assert all(length + longest <= 64 for length in store.lengths(range(2)))
    assert text_of(plan, store.sequence(1)[0]) == "матч\nТема:"
