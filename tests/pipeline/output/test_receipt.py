"""A receipt depends on the bytes of its part file, and on the names of columns, alone."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tirazh.pipeline import schema
from tirazh.pipeline.output.quality import quality
from tirazh.pipeline.output.receipt import Receipt, ReceiptSettings, check_belongs, describe_part, make_receipt
from tirazh.pipeline.output.write import to_parquet
from tirazh.pipeline.schema import Kind


def plain_of(kind: str) -> dict[str, str]:
    return {"kind": kind, "prefix": ""}


FOOTER = {"part": 3, "rows": 2, "plan_id": "0" * 32, "input_version": "7"}
PLAIN = ReceiptSettings.of({"kind": "classify", "prefix": ""})


def classified(prefix: str = "", **columns: list[str]) -> pa.Table:
    added = pa.schema([field.with_name(prefix + field.name) for field in schema.classify_fields()])
    values = [["sport", None], [0.75, 0.5], [[("sport", 0.75)], [("sport", 0.5)]], [7, 8], [None, None]]
    arrays = [pa.array(column, field.type) for column, field in zip(values, added, strict=True)]
    return pa.table([*map(pa.array, columns.values()), *arrays], names=[*columns, *added.names])


def generated(**columns: list[str]) -> pa.Table:
    added = pa.schema(schema.generate_fields(1))
    values = [["a", None], ["stop", "error"], [7, None], [3, None], [-1.5, None], [None, "too long"]]
    arrays = [pa.array(column, field.type) for column, field in zip(values, added, strict=True)]
    return pa.table([*map(pa.array, columns.values()), *arrays], names=[*columns, *added.names])


def test_a_receipt_of_classify_counts_labels_and_gold_labels() -> None:
    data = to_parquet(classified(topic=["sport", "economics"]), footer=FOOTER)
    receipt = make_receipt(data, ReceiptSettings.of({"kind": "classify", "prefix": "", "gold_column": "topic"}))
    assert (receipt.part, receipt.plan_id, receipt.rows, receipt.errors) == (3, "0" * 32, 2, 0)
    counts = receipt.answers[""]
    assert (receipt.prompt_tokens, counts.labels, counts.confidence_sum) == (15, {"sport": 1, "": 1}, 1.25)
    assert counts.confusion == [("economics", "", 1), ("sport", "sport", 1)]
    assert counts.confidences == [0] * 10 + [1] + [0] * 4 + [1] + [0] * 4
    assert Receipt.from_json(receipt.to_json()) == receipt
    plain = make_receipt(data, PLAIN)
    gold = replace(plain.answers[""], gold_column="topic", confusion=counts.confusion)
    assert replace(plain, answers={"": gold}) == receipt


def test_a_receipt_of_generate_counts_tokens_and_errors_whatever_the_input_columns_are_called() -> None:
    """The input of generate may be the output of classify: it then has the columns of both."""
    table = generated(label=["sport", "art"], confidence=["high", "low"], probabilities=["a", "b"])
    receipt = make_receipt(to_parquet(table, footer=FOOTER), ReceiptSettings.of(plain_of("generate")))
    assert (receipt.completion_tokens, receipt.prompt_tokens, receipt.answers) == (3, 7, {})
    assert receipt.error_kinds == {"too long": 1}


def test_a_receipt_of_score_counts_the_tokens_of_texts() -> None:
    added = pa.schema(schema.score_fields())
    values = [[-3.0, None], [4, None], [0.5, None], [None, "too long"]]
    arrays = [pa.array(column, field.type) for column, field in zip(values, added, strict=True)]
    table = pa.table([pa.array(["x", "y"]), *arrays], names=["label", *added.names])
    receipt = make_receipt(to_parquet(table, footer=FOOTER), ReceiptSettings.of(plain_of("score")))
    assert (receipt.prompt_tokens, receipt.completion_tokens, receipt.errors, receipt.answers) == (4, 0, 1, {})


def test_a_receipt_of_embed_counts_the_tokens_of_prompts() -> None:
    added = pa.schema(schema.embed_fields())
    values = [[[0.5, 1.0], None], [4, None], [None, "too long"]]
    arrays = [pa.array(column, field.type) for column, field in zip(values, added, strict=True)]
    table = pa.table([pa.array(["x", "y"]), *arrays], names=["label", *added.names])
    receipt = make_receipt(to_parquet(table, footer=FOOTER), ReceiptSettings.of({"kind": "embed", "prefix": ""}))
    assert (receipt.prompt_tokens, receipt.completion_tokens, receipt.errors, receipt.answers) == (4, 0, 1, {})


def test_a_receipt_finds_the_added_columns_by_their_prefix() -> None:
    table = classified("t_", label=["x", "y"], error=["x", "y"], confidence=["x", "y"])
    receipt = make_receipt(to_parquet(table, footer=FOOTER), ReceiptSettings.of({"kind": "classify", "prefix": "t_"}))
    assert (receipt.errors, receipt.answers[""].labels) == (0, {"sport": 1, "": 1})


def parquet_without_footer() -> bytes:
    sink = io.BytesIO()
    pq.write_table(classified(), sink)
    return sink.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PAR1PAR1",
        parquet_without_footer(),
        to_parquet(classified(), footer={"part": 3, "rows": 2, "fingerprint": "f"}),
        to_parquet(pa.table({"text": ["a"]}), footer=FOOTER),
    ],
    ids=["empty", "no Parquet", "no footer", "earlier footer", "no added columns"],
)
def test_other_files_have_no_receipt(data: bytes) -> None:
    with pytest.raises(ValueError, match="its"):
        make_receipt(data, PLAIN)


@given(st.data())
def test_a_cut_or_changed_file_has_no_receipt_or_another_one(data: st.DataObject) -> None:
    whole = to_parquet(classified(), footer=FOOTER)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with pytest.raises(ValueError, match="its"):
        make_receipt(cut, PLAIN)
    place = data.draw(st.integers(0, len(whole) - 1))
    changed = whole[:place] + bytes([whole[place] ^ data.draw(st.integers(1, 255))]) + whole[place + 1 :]
    try:
        receipt = make_receipt(changed, PLAIN)
    except ValueError:
        return
    assert receipt.sha256 != make_receipt(whole, PLAIN).sha256


@pytest.mark.parametrize("change", [{"plan_id": "1" * 32}, {"part": 4}, {"rows": 3}])
def test_a_receipt_belongs_to_one_part_of_one_plan(change: dict[str, object]) -> None:
    receipt = make_receipt(to_parquet(classified(), footer=FOOTER), PLAIN)
    check_belongs(receipt, part=3, rows=2, plan_id="0" * 32)
    with pytest.raises(ValueError, match="it "):
        check_belongs(
            Receipt.from_json(json.dumps(json.loads(receipt.to_json()) | change).encode()),
            part=3,
            rows=2,
            plan_id="0" * 32,
        )


CONFIDENCES = st.none() | st.floats(0, 1, width=32)
TOPICS = st.none() | st.text(max_size=3)


@given(st.data(), st.integers(0, 40), st.booleans())
def test_a_receipt_made_from_the_table_equals_that_made_from_the_file(
    data: st.DataObject, rows: int, is_classify: bool
) -> None:
    """A new part is described from memory; one that another task has stored is decoded."""

    def column(values: st.SearchStrategy[object]) -> list[object]:
        return data.draw(st.lists(values, min_size=rows, max_size=rows))

    table = classified(topic=["a", "b"]) if is_classify else generated(topic=["a", "b"])
    drawn = {schema.LABEL: TOPICS, schema.CONFIDENCE: CONFIDENCES, schema.ERROR: TOPICS, "topic": TOPICS}
    counts = dict.fromkeys((schema.PROMPT_TOKENS, schema.COMPLETION_TOKENS), st.none() | st.integers(0, 2**31 - 1))
    table = pa.table(
        [pa.array(column((drawn | counts).get(field.name, st.none())), field.type) for field in table.schema],
        schema=table.schema,
    )
    if data.draw(st.booleans()):
        table = table.set_column(0, "topic", table.column("topic").dictionary_encode())
    kind: Kind = "classify" if is_classify else "generate"
    for settings in (
        ReceiptSettings.of(plain_of(kind)),
        ReceiptSettings.of({**plain_of(kind), "gold_column": "topic"}),
    ):
        file = to_parquet(table, footer=FOOTER)
        assert describe_part(table, file, FOOTER, settings) == make_receipt(file, settings)


def test_a_receipt_of_an_earlier_version_is_read_and_still_that_of_its_part() -> None:
    """It has no counts of confidences, and the counts of classify stand in it beside the others."""
    data = to_parquet(classified(topic=["sport", "economics"]), footer=FOOTER)
    made = make_receipt(data, ReceiptSettings.of({**plain_of("classify"), "gold_column": "topic"}))
    earlier = {
        **{"part": 3, "plan_id": "0" * 32, "input_version": "7", "rows": 2, "errors": 0},
        **{"prompt_tokens": 15, "completion_tokens": 0, "file_bytes": len(data), "sha256": made.sha256},
        **{"error_kinds": {}, "labels": {"": 1, "sport": 1}, "gold_column": "topic"},
        **{"confusion": [["economics", "", 1], ["sport", "sport", 1]], "confidence_sum": 1.25},
        **{"finish_reasons": {}, "completion_lengths": {}},
    }
    stored = json.dumps(earlier).encode()
    receipt = Receipt.from_json(stored)
    assert receipt.gold_columns == made.gold_columns == {"": "topic"}
    assert receipt.to_json() == stored
    assert made.is_as_stored(stored)
    assert made.is_as_stored(made.to_json())
    assert not made.is_as_stored(stored.replace(b"1.25", b"1.5"))
    assert quality([receipt]) == {
        name: value for name, value in quality([made]).items() if name not in ("confidences", "abstained_by")
    }
    assert json.loads(made.to_json()).items() >= earlier.items()


def test_receipts_of_other_kinds_are_stored_as_before() -> None:
    data = to_parquet(generated(topic=["a", "b"]), footer=FOOTER)
    receipt = make_receipt(data, ReceiptSettings.of(plain_of("generate")))
    names = [*("labels", "gold_column", "confusion", "confidence_sum"), "finish_reasons", "completion_lengths"]
    assert list(json.loads(receipt.to_json()))[-6:] == names
    assert Receipt.from_json(receipt.to_json()) == receipt
