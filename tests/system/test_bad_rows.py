"""Bad rows among good ones, with a real model: each gets its own error or an answer, and good rows are unaffected."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from tests.system.command import assert_one_sentence, read_rows
from tests.system.tiny_model import TINY
from tirazh import classify, generate, preview
from tirazh.errors import JobError
from tirazh.jobs.cli import main

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_local")]
GOOD = ["Once upon a time", "Матч выигран", "news of the day"]
SETTINGS: dict[str, Any] = {"dtype": "float32", "threads": 1, "max_error_rate": 1.0}
LABELS = {"art": " art", "law": " law"}
LONG = "слово " * 400


@dataclass(frozen=True)
class Bad:
    """A text and the beginning of its expected error; None where an answer is expected."""

    text: bytes | None
    generated: str | None
    classified: str | None


# A sequence of the tiny model holds 512 tokens, a token a byte.
BAD: dict[str, Bad] = {
    "null": Bad(None, "column 'text' is null", "column 'text' is null"),
    "empty": Bad(b"", "column 'text' is empty", "column 'text' is empty"),
    "only spaces": Bad(b" \t\n ", "column 'text' is empty", "column 'text' is empty"),
    "only a wide space": Bad("\u3000".encode(), "column 'text' is empty", "column 'text' is empty"),
    "not UTF-8": Bad(b"abc\xff", "column 'text' is not UTF-8", "column 'text' is not UTF-8"),
    "UTF-8 cut in a letter": Bad("слово".encode()[:-1], "column 'text' is not UTF-8", "column 'text' is not UTF-8"),
    "Latin-1": Bad("café".encode("latin-1"), "column 'text' is not UTF-8", "column 'text' is not UTF-8"),
    "a surrogate": Bad(b"\xed\xa0\x80", "column 'text' is not UTF-8", "column 'text' is not UTF-8"),
    "10 MB": Bad("слово ".encode() * 900_000, "column 'text' has 5400000 characters", None),
    "10 MB without a space": Bad(b"x" * 10_000_000, "column 'text' has 10000000 characters", None),
    "longer than a sequence": Bad(LONG.encode(), "the prompt has 4400 tokens", None),
    "an end of text": Bad(b"<|endoftext|>", None, None),
    "ends of text in a row": Bad(b"a<|endoftext|><|endoftext|>b", None, None),
    "the names of controls": Bad(b"<s>a</s><pad><unk><mask>", None, None),
    "a NUL": Bad(b"a\x00b", None, None),
    "control characters": Bad(bytes(range(1, 32)) + b"x", None, None),
    "right to left, combining": Bad("\u202eabc\u0301\u200d🙂".encode(), None, None),
    "a byte order mark": Bad("\ufeffabc".encode(), None, None),
    "what looks like a template": Bad(b"{{ 7 * 7 }}{% for x in y %}", None, None),
}


def write(path: Path, texts: list[bytes | None]) -> str:
    raw = pa.array(texts, pa.large_binary())
    text = pa.LargeStringArray.from_buffers(len(raw), raw.buffers()[1], raw.buffers()[2], raw.buffers()[0])
    pq.write_table(pa.table({"text": text, "id": range(len(texts))}), path)
    return str(path)


def read_answers(output: Path) -> list[dict[str, Any]]:
    """Read the output rows without their texts, which may not be UTF-8."""
    tables = [pq.read_table(path).drop_columns(["text"]) for path in sorted(output.glob("part-*.parquet"))]
    return [row for table in tables for row in table.to_pylist()]


@pytest.fixture
def sources(tmp_path: Path) -> tuple[str, str]:
    """Two files: the good texts alone, and with a bad text after each good one."""
    good = [text.encode() for text in GOOD]
    mixed = [text for place, bad in enumerate(BAD.values()) for text in (good[place % len(good)], bad.text)]
    return write(tmp_path / "good.parquet", good), write(tmp_path / "mixed.parquet", mixed)


@pytest.mark.slow
def test_a_bad_prompt_is_an_error_of_its_own_row_only(
    sources: tuple[str, str], tiny_model: str, tmp_path: Path
) -> None:
    settings = {**SETTINGS, "prompt_column": "text", "temperature": 0.0, "max_new_tokens": 6, "model": tiny_model}
    good, mixed = tmp_path / "good", tmp_path / "mixed"
    generate(input=sources[0], output=good, **settings)
    manifest = generate(input=sources[1], output=mixed, part_rows=9, **settings)
    assert manifest["errors"] == sum(bad.generated is not None for bad in BAD.values())
    completions = [row["completion"] for row in read_answers(good)]
    rows = read_answers(mixed)
    assert [row["completion"] for row in rows[::2]] == [completions[place % len(GOOD)] for place in range(len(BAD))]
    for (name, bad), row in zip(BAD.items(), rows[1::2], strict=True):
        assert_is(name, bad.generated, row, answer="completion")


def test_a_bad_text_is_an_error_of_its_own_row_only(sources: tuple[str, str], tiny_model: str, tmp_path: Path) -> None:
    settings = {**SETTINGS, "labels": LABELS, "model": tiny_model}
    good, mixed = tmp_path / "good", tmp_path / "mixed"
    # The rows of a preview have the bits of the job's (`tests/pipeline/preview`).
    alone = preview("classify", count=len(GOOD), input=sources[0], output=good, **settings)
    manifest = classify(input=sources[1], output=mixed, part_rows=9, **settings)
    assert manifest["errors"] == sum(bad.classified is not None for bad in BAD.values())
    confidences = [answer["confidence"] for row in alone.rows for answer in row["output"]]
    rows = read_answers(mixed)
    assert [row["confidence"] for row in rows[::2]] == [confidences[place % len(GOOD)] for place in range(len(BAD))]
    for (name, bad), row in zip(BAD.items(), rows[1::2], strict=True):
        assert_is(name, bad.classified, row, answer="label")


def assert_is(name: str, error: str | None, row: dict[str, Any], *, answer: str) -> None:
    if error is None:
        assert row["error"] is None, (name, row)
        assert row[answer] is not None, (name, row)
    else:
        assert (row["error"] or "").startswith(error), (name, row)
        assert row[answer] is None, (name, row)


@pytest.mark.slow
@pytest.mark.parametrize("truncate", ["left", "right", "error"])
def test_a_long_text_is_truncated_on_either_side_or_is_an_error(truncate: str, tiny_model: str, tmp_path: Path) -> None:
    """The model does not see the truncated end: texts that differ only there have the same answer."""
    texts = [("А" + LONG).encode(), ("Б" + LONG).encode(), (LONG + "А").encode(), (LONG + "Б").encode()]
    source = write(tmp_path / "long.parquet", list(texts))
    classify(input=source, output=tmp_path / "out", labels=LABELS, model=tiny_model, truncate=truncate, **SETTINGS)
    rows = read_answers(tmp_path / "out")
    if truncate == "error":
        assert all("tokens; at most" in row["error"] for row in rows)
        return
    beginning, end = ([row["confidence"] for row in rows[:2]], [row["confidence"] for row in rows[2:]])
    assert (beginning[0] == beginning[1]) == (truncate == "left")
    assert (end[0] == end[1]) == (truncate == "right")


@pytest.mark.slow  # tests/pipeline/prompts/test_control_marks.py says it of the prompt's tokens
def test_the_name_of_a_control_token_in_a_prompt_is_ordinary_text(tiny_model: str, tmp_path: Path) -> None:
    source = write(tmp_path / "a.parquet", [b"a<|endoftext|>"])
    generate(
        input=source, output=tmp_path / "out", model=tiny_model, prompt_column="text", max_new_tokens=2, **SETTINGS
    )
    (row,) = read_answers(tmp_path / "out")
    assert row["prompt_tokens"] == len(b"a<|endoftext|>")  # one token per byte, and no control token


@pytest.mark.slow
@pytest.mark.parametrize("value", [np.nan, np.inf], ids=["NaN", "infinite"])
def test_non_finite_logits_are_errors_of_their_own_rows_only(value: float, tiny_model: str, tmp_path: Path) -> None:
    broken = shutil.copytree(tiny_model, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    name = next(name for name, array in weights.items() if array.shape[0] == TINY.max_position_embeddings)
    weights[name] = weights[name].copy()
    weights[name][40] = value  # only sequences of more than 40 tokens read it
    save_file(weights, broken / "model.safetensors")
    source = write(tmp_path / "a.parquet", [b"one", b"x" * 60, b"three"])
    generate(
        input=source, output=tmp_path / "out", model=str(broken), prompt_column="text", max_new_tokens=2, **SETTINGS
    )
    first, second, third = [row["error"] for row in read_answers(tmp_path / "out")]
    assert (first, third) == (None, None)
    assert "finite" in second


@pytest.mark.slow
def test_too_many_errors_stop_the_job_and_finished_parts_are_kept(
    tiny_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "a.parquet", [b"one", None, b"two", b"three"] * 20)
    flags = {"input": source, "output": tmp_path / "out", "model": tiny_model, "prompt-column": "text"}
    flags |= {"max-new-tokens": 1, "part-rows": 4, "dtype": "float32", "threads": 1}
    arguments = ["generate", *(str(text) for name, value in flags.items() for text in (f"--{name}", value))]
    code = main([*arguments, "--max-error-rate", "0.1", "-q"])
    assert_one_sentence((code, capsys.readouterr().err), exit_code=1, says="--max-error-rate")
    there = len(read_rows(tmp_path / "out"))
    assert there
    assert main([*arguments, "--max-error-rate", "0.25", "-q"]) == 0
    assert len(read_rows(tmp_path / "out")) == 80
    with pytest.raises(JobError, match="rows have errors"):
        generate(
            input=source, output=tmp_path / "no", model=tiny_model, prompt_column="text", dtype="float32", threads=1
        )
