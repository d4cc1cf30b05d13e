"""The sink: output columns, unchanged input columns, and files with reproducible bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tirazh.errors import JobError
from tirazh.model.tokenizer import Tokenizer
from tirazh.pipeline import schema
from tirazh.pipeline.classification.answers import AnswerLayout
from tirazh.pipeline.input.parts import part_name
from tirazh.pipeline.output.assemble import OutputLayout, assemble
from tirazh.pipeline.output.leases.lease import hold
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.receipt import Receipt, ReceiptSettings, make_receipt
from tirazh.pipeline.output.write import MadePart, WriteConfig, WriteStep, to_parquet
from tirazh.pipeline.prompts.encode import cached_tokenizer
from tirazh.pipeline.storage.filesystem import Storage

COLUMNS = pa.schema({"text": pa.string(), "topic": pa.string()})
CLASSIFY = OutputLayout(
    columns=COLUMNS,
    added=pa.schema(schema.classify_fields()),
    answers=(AnswerLayout(labels=("sport", "economics"), threshold=0.6),),
)
GENERATE = replace(CLASSIFY, added=pa.schema(schema.generate_fields(1)), answers=())
Row = dict[str, Any]


@pytest.fixture
def write_config(tmp_path: Path, model_dir: Path) -> WriteConfig:
    return WriteConfig(
        output=OutputFiles(Storage(), str(tmp_path / "out")),
        layout=CLASSIFY,
        parts={
            index: MadePart(part_name(index, 3, "f" * 32), "f" * 32, version) for index, version in enumerate("123")
        },
        tokenizer_dir=str(model_dir),
        receipts=ReceiptSettings.of({"kind": "classify", "prefix": "", "gold_column": "topic"}),
    )


def scored() -> pa.Table:
    """Three rows: a confident one, an uncertain one and one with an error."""
    return pa.table(
        {
            "text": ["a", "b", None],
            "topic": ["sport", "sport", "economics"],
            schema.PART: pa.array([1, 1, 1], pa.int32()),
            schema.ROW_ERROR: pa.array([None, None, "column 'text' is null"], pa.string()),
            schema.NUM_PROMPT_IDS: pa.array([3, 4, None], pa.int32()),
            schema.LABEL_LOGPROBS: [[-0.1, -9.0], [-1.0, -1.0], None],
        }
    )


def completed(samples: int) -> pa.Table:
    return pa.table(
        {
            "text": ["a", "b"],
            "topic": ["x", "y"],
            schema.PART: pa.array([0, 0], pa.int32()),
            schema.ROW_ERROR: pa.array([None, "too long"], pa.string()),
            schema.NUM_PROMPT_IDS: pa.array([3, None], pa.int32()),
            schema.COMPLETION_IDS: pa.array([[[66, 67, 68]] * samples, None], pa.list_(pa.list_(pa.int32()))),
            schema.TEXT_ENDS: pa.array([[None, 2][:samples], None], pa.list_(pa.int32())),
            schema.REASONS: pa.array([["length", "stop"][:samples], None], pa.list_(pa.string())),
            schema.COMPLETION_LOGPROBS: pa.array([[-1.5, -2.5][:samples], None], pa.list_(pa.float64())),
        }
    )


def test_classify_adds_its_columns(tokenizer: Tokenizer) -> None:
    table = assemble(scored(), CLASSIFY, tokenizer)
    assert table.schema == pa.schema([*COLUMNS, *schema.classify_fields()])
    clear, doubt, failed = table.to_pylist()
    assert clear["label"] == "sport"
    assert [entry["label"] for entry in clear["probabilities"]] == list(CLASSIFY.answers[0].labels)
    assert (doubt["label"], doubt["confidence"]) == (None, 0.5)
    assert failed == {
        **{"text": None, "topic": "economics", "label": None, "confidence": None, "probabilities": None},
        **{"prompt_tokens": None, "error": "column 'text' is null"},
    }


def test_generate_adds_its_columns(tokenizer: Tokenizer) -> None:
    table = assemble(completed(1), GENERATE, tokenizer)
    assert table.schema == pa.schema([*COLUMNS, *schema.generate_fields(1)])
    good, failed = table.to_pylist()
    text = tokenizer.decode([66, 67, 68])
    assert good == {
        **{"text": "a", "topic": "x", "completion": text, "finish_reason": "length"},
        **{"prompt_tokens": 3, "completion_tokens": 3, "logprob": -1.5, "error": None},
    }
    assert failed == {
        **{"text": "b", "topic": "y", "completion": None, "finish_reason": "error"},
        **{"prompt_tokens": None, "completion_tokens": None, "logprob": None, "error": "too long"},
    }


def test_several_samples_are_lists_and_a_stop_string_cuts_its_own(tokenizer: Tokenizer) -> None:
    layout = replace(GENERATE, added=pa.schema(schema.generate_fields(2, as_lists=True)), samples=2)
    good, failed = assemble(completed(2), layout, tokenizer).to_pylist()
    text = tokenizer.decode([66, 67, 68])
    assert good["completions"] == [text, text[:2]]
    assert good["finish_reasons"] == ["length", "stop"]
    assert good["completion_tokens"] == 6
    assert good["logprobs"] == [-1.5, -2.5]
    assert (failed["completions"], failed["finish_reasons"]) == (None, ["error", "error"])


def test_error_is_a_string_column_when_no_row_has_one(tokenizer: Tokenizer) -> None:
    table = scored().slice(0, 2)
    assert assemble(table, CLASSIFY, tokenizer).schema.field("error").type == pa.string()


def test_every_input_column_keeps_its_type_and_value(tokenizer: Tokenizer) -> None:
    columns = {
        "large": pa.array(["a", None, "c"], pa.large_string()),
        "view": pa.array(["a", None, "c"], pa.string_view()),
        "category": pa.array(["x", "y", "x"]).dictionary_encode(),
        "when": pa.array([datetime(2026, 11, 24, tzinfo=UTC)] * 3, pa.timestamp("us", "Europe/Moscow")),
        "price": pa.array([Decimal("1.50"), None, Decimal("2.25")], pa.decimal128(12, 2)),
        "tags": pa.array([["a"], [], None], pa.list_(pa.string())),
        "place": pa.array([{"city": "Казань", "n": 1}, None, {"city": None, "n": 2}]),
        "pairs": pa.array([[("a", 1)], None, []], pa.map_(pa.string(), pa.int8())),
        "raw": pa.array([b"\x00", None, b"\xff"], pa.binary()),
        "nothing": pa.nulls(3),
    }
    names = {name: array.type for name, array in columns.items()}
    table = scored().drop_columns(["text", "topic"])
    for name, array in columns.items():
        table = table.append_column(name, array)
    done = assemble(table, replace(CLASSIFY, columns=pa.schema(names)), tokenizer)
    for name, array in columns.items():
        assert done.schema.field(name).type == array.type
        assert done.column(name).to_pylist() == array.to_pylist()


def test_a_part_is_one_file_with_its_receipt(write_config: WriteConfig, tmp_path: Path) -> None:
    WriteStep(write_config)(scored())
    path = tmp_path / "out/part-00001-of-00003-ffffffff.parquet"
    metadata = pq.read_metadata(path)
    assert metadata.row_group(0).column(0).compression == "ZSTD"
    assert json.loads(metadata.metadata[b"tirazh"]) == {"plan_id": "f" * 32, "part": 1, "rows": 3, "input_version": "2"}
    receipt = Receipt.from_json((tmp_path / "out/_tirazh/receipts/part-00001-of-00003-ffffffff.json").read_bytes())
    assert (receipt.rows, receipt.errors, receipt.prompt_tokens) == (3, 1, 7)
    assert receipt.file_bytes == path.stat().st_size
    assert receipt.answers[""].labels == {"": 1, "sport": 1}
    assert receipt.answers[""].confusion == [("sport", "", 1), ("sport", "sport", 1)]


def test_the_same_rows_give_the_same_bytes(write_config: WriteConfig, tmp_path: Path) -> None:
    path = tmp_path / "out/part-00001-of-00003-ffffffff.parquet"
    WriteStep(write_config)(scored())
    first = path.read_bytes()
    path.unlink()
    WriteStep(write_config)(pa.concat_tables([scored().slice(0, 1), scored().slice(1)]))
    assert path.read_bytes() == first


def test_the_receipt_is_written_after_the_part(write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: Storage, uri: str, data: bytes) -> None:
        assert uri.endswith("receipts/part-00001-of-00003-ffffffff.json")
        raise KeyboardInterrupt

    monkeypatch.setattr(Storage, "write", failing)
    with pytest.raises(KeyboardInterrupt):
        WriteStep(write_config)(scored())
    assert list(write_config.output.parts()) == ["part-00001-of-00003-ffffffff.parquet"]


def other_bytes(config: WriteConfig) -> bytes:
    """A file of the same part with other bytes: another machine may differ in the last bits of a float."""
    table = assemble(scored(), config.layout, cached_tokenizer(config.tokenizer_dir))
    changed = table.set_column(3, "confidence", pa.array([0.75, 0.5, None], pa.float32()))
    return to_parquet(changed, footer={"part": 1, "rows": 3, "plan_id": "f" * 32, "input_version": "2"})


def test_a_stored_part_that_was_made_from_other_input_rows_is_replaced(write_config: WriteConfig) -> None:
    """A run that continues on a rewritten input keeps its plan, and a former holder may write late."""
    output, name = write_config.output, "part-00001-of-00003-ffffffff.parquet"
    table = assemble(scored(), write_config.layout, cached_tokenizer(write_config.tokenizer_dir))
    other = table.set_column(0, "text", pa.array(["a", "other", None], pa.string()))
    footer = {"part": 1, "rows": 3, "plan_id": "f" * 32, "input_version": "1"}
    output.storage.write(output.part(name), to_parquet(other, footer=footer))
    WriteStep(write_config)(scored())
    stored = pq.read_table(pa.BufferReader(output.storage.read(output.part(name))))
    assert stored.column("text").to_pylist() == scored().column("text").to_pylist()
    assert Receipt.from_json(output.storage.read(output.receipt(name))).input_version == "2"


def test_a_part_that_another_task_has_written_stays_and_the_receipt_describes_it(write_config: WriteConfig) -> None:
    output, name = write_config.output, "part-00001-of-00003-ffffffff.parquet"
    stored = other_bytes(write_config)
    output.storage.write(output.part(name), stored)
    summary = WriteStep(write_config)(scored())
    tokens = {"prompt_tokens": 7, "completion_tokens": 0}
    assert summary.to_pylist() == [{"part": 1, "rows": 3, "errors": 1, **tokens, "written": True}]
    assert output.storage.read(output.part(name)) == stored
    assert Receipt.from_json(output.storage.read(output.receipt(name))) == make_receipt(stored, write_config.receipts)


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"x" * 3_000], ids=["empty", "short", "other bytes"])
def test_a_damaged_file_under_the_name_of_a_part_is_replaced(write_config: WriteConfig, damage: bytes) -> None:
    output, name = write_config.output, "part-00001-of-00003-ffffffff.parquet"
    output.storage.write(output.part(name), damage)
    WriteStep(write_config)(scored())
    data = output.storage.read(output.part(name))
    assert Receipt.from_json(output.storage.read(output.receipt(name))) == make_receipt(data, write_config.receipts)


def test_a_storage_that_damages_every_write_is_reported(
    write_config: WriteConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def truncating(self: Storage, uri: str, data: bytes) -> bool:
        self.write(uri, data[:100])
        return False

    monkeypatch.setattr(Storage, "create", truncating)
    with pytest.raises(JobError, match="is damaged each time it is written"):
        WriteStep(write_config)(scored())


def test_a_run_that_lost_its_lease_writes_no_part(write_config: WriteConfig, tmp_path: Path) -> None:
    with hold(write_config.output, lease_s=60) as lease:
        step = WriteStep(replace(write_config, lease=lease.token))
        write_config.output.storage.remove(write_config.output.leases, recursive=True)
        with hold(write_config.output, lease_s=60), pytest.raises(JobError, match="it has stopped writing"):
            step(scored())
    assert not list((tmp_path / "out").rglob("part-*"))


def test_a_skipped_part_writes_nothing(write_config: WriteConfig, tmp_path: Path) -> None:
    summary = WriteStep(write_config)(scored().slice(0, 1).select([schema.PART]))
    tokens = {"prompt_tokens": 0, "completion_tokens": 0}
    assert summary.to_pylist() == [{"part": 1, "rows": 0, "errors": 0, **tokens, "written": False}]
    assert not (tmp_path / "out").exists()


def test_every_added_column_has_the_prefix(write_config: WriteConfig, tmp_path: Path) -> None:
    added = pa.schema([field.with_name("t_" + field.name) for field in schema.classify_fields()])
    WriteStep(
        replace(
            write_config,
            layout=replace(CLASSIFY, added=added),
            receipts=ReceiptSettings.of({"kind": "classify", "prefix": "t_"}),
        )
    )(scored())
    names = pq.read_schema(tmp_path / "out/part-00001-of-00003-ffffffff.parquet").names
    assert names == ["text", "topic", "t_label", "t_confidence", "t_probabilities", "t_prompt_tokens", "t_error"]


@pytest.mark.parametrize("reader", ["polars", "dataset", "duckdb-like glob"])
def test_readers_of_the_directory_see_only_the_data(write_config: WriteConfig, tmp_path: Path, reader: str) -> None:
    import polars
    import pyarrow.dataset as ds

    WriteStep(write_config)(scored())
    write_config.output.storage.write(write_config.output.part("_SUCCESS"), b"")
    out = str(tmp_path / "out")
    read: dict[str, Callable[[], int]] = {
        "polars": lambda: polars.read_parquet(f"{out}/*.parquet").height,
        "dataset": lambda: ds.dataset(out).count_rows(),
        "duckdb-like glob": lambda: sum(pq.read_table(path).num_rows for path in Path(out).glob("*.parquet")),
    }
    assert read[reader]() == 3


def test_results_that_parquet_cannot_hold_are_reported_with_their_part(write_config: WriteConfig) -> None:
    columns = pa.schema({"text": pa.string(), "topic": pa.int8()})
    step = WriteStep(replace(write_config, layout=replace(CLASSIFY, columns=columns)))
    with pytest.raises(JobError, match=r"the results of part-00001-of-00003-ffffffff\.parquet \(3 rows\) cannot be"):
        step(scored())
