"""A relabelled output has the answers that the job itself would have given with the new settings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pipeline.relabel.outputs import LABELS, jobs_with_scores, rows_of, run, spec_of, write_news
from tirazh.errors import JobError, OutputError, RequestError
from tirazh.pipeline.gold.read import GoldSource
from tirazh.pipeline.output.verify import verify
from tirazh.pipeline.relabel.command import relabel_output
from tirazh.pipeline.relabel.fit import calibrate_output
from tirazh.pipeline.relabel.request import RelabelRequest

ROWS = 400


@pytest.fixture
def job(tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Make specs of one job of 400 rows."""
    jobs_with_scores(monkeypatch, write_news(tmp_path, ROWS))
    return lambda **changes: spec_of(tmp_path, model_dir, **changes)


@pytest.fixture
def plain(job: Any) -> str:
    """The finished output of the job without calibration."""
    return run(job())


def relabel(output: str, out: Path, **given: Any) -> dict[str, Any]:
    return relabel_output(output, str(out), RelabelRequest(**given))


def calibrate(output: str, out: Path, **given: Any) -> dict[str, Any]:
    return calibrate_output(output, GoldSource(column="topic"), out=str(out), **given)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"shape": "decision", "prefix": "x_"},
        {"multi_label": 0.2},
        {"none_label": "culture"},
        {"top": 2},
        {"priors": "balanced"},
        {"labels": {"a/x": "economics", "a/y": "sport", "b/z": "culture"}},
    ],
    ids=lambda settings: " ".join(settings) or "plain",
)
def test_another_threshold_gives_the_rows_that_the_job_gives_with_it(
    job: Any, tmp_path: Path, settings: dict[str, Any]
) -> None:
    first = run(job(**settings, abstain_below=0.9))
    manifest = relabel(first, tmp_path / "new", abstain_below=0.6)
    expected = run(job(**settings, abstain_below=0.6, output=str(tmp_path / "expected")))
    assert rows_of(str(tmp_path / "new")).equals(rows_of(expected))
    assert verify(str(tmp_path / "new")).problems == ()
    assert 0 < manifest["abstained"] < ROWS
    assert manifest["spec"]["abstain_below"] == 0.6
    assert manifest["relabelled"]["source"] == first


def test_a_calibration_file_gives_the_rows_that_classify_gives_with_it(job: Any, plain: str, tmp_path: Path) -> None:
    facts = calibrate(plain, tmp_path / "c.json")
    assert facts["after"]["ece"] < facts["before"]["ece"]
    manifest = relabel(plain, tmp_path / "new", calibration=str(tmp_path / "c.json"), target_error=0.3)
    expected = run(job(calibrate=str(tmp_path / "c.json"), target_error=0.3, output=str(tmp_path / "expected")))
    new, direct = rows_of(str(tmp_path / "new")), rows_of(expected)
    for name in ("id", "text", "topic", "label", "prompt_tokens", "error"):
        assert new.column(name).equals(direct.column(name)), name
    pairs = zip(new.column("confidence").to_pylist(), direct.column("confidence").to_pylist(), strict=True)
    assert all(a == b or a == pytest.approx(b, abs=1e-6) for a, b in pairs)
    assert verify(str(tmp_path / "new")).problems == ()
    assert verify(expected).problems == ()
    assert manifest["relabelled"]["thresholds"][""] > 0
    wrong = sum(
        label is not None and label != gold
        for label, gold in zip(new.column("label").to_pylist(), new.column("topic").to_pylist(), strict=True)
    )
    assert wrong <= 0.3 * (ROWS - 1 - manifest["abstained"])


def test_the_target_error_may_be_that_of_gold_rows(plain: str, tmp_path: Path) -> None:
    gold = tmp_path / "gold.csv"
    rows = rows_of(plain)
    pairs = zip(rows.column("id").to_pylist(), rows.column("topic").to_pylist(), strict=True)
    gold.write_text("id,label\n" + "".join(f"{key},{label}\n" for key, label in pairs), encoding="utf-8")
    by_file = relabel(plain, tmp_path / "a", target_error=0.3, gold=GoldSource(file=str(gold), key="id"))
    by_column = relabel(plain, tmp_path / "b", target_error=0.3, gold=GoldSource(column="topic"))
    assert by_file["relabelled"]["thresholds"] == by_column["relabelled"]["thresholds"]
    assert 0 < by_file["abstained"] < ROWS
    assert rows_of(str(tmp_path / "a")).equals(rows_of(str(tmp_path / "b")))
    with pytest.raises(RequestError, match="no gold labels: its job had no --gold-column"):
        relabel(plain, tmp_path / "c", target_error=0.3)
    with pytest.raises(RequestError, match=r"at least 3688 answered rows .* supports is 0\.\d+$"):
        relabel(plain, tmp_path / "c", target_error=0.001, gold=GoldSource(column="topic"))
    assert not (tmp_path / "c").exists()


def test_an_output_of_a_calibration_file_is_relabelled_by_the_sample_of_this_file_alone(
    job: Any, plain: str, tmp_path: Path
) -> None:
    calibrate(plain, tmp_path / "c.json")
    calibrate(plain, tmp_path / "d.json", method="temperature")
    calibrated = run(job(calibrate=str(tmp_path / "c.json"), output=str(tmp_path / "calibrated")))
    relabel(calibrated, tmp_path / "new", calibration=str(tmp_path / "c.json"), target_error=0.3)
    expected = run(job(calibrate=str(tmp_path / "c.json"), target_error=0.3, output=str(tmp_path / "expected")))
    assert rows_of(str(tmp_path / "new")).equals(rows_of(expected))
    with pytest.raises(RequestError, match="calibrated by this file already"):
        relabel(calibrated, tmp_path / "other", calibration=str(tmp_path / "c.json"))
    with pytest.raises(RequestError, match="are calibrated by a file already"):
        relabel(calibrated, tmp_path / "other", calibration=str(tmp_path / "d.json"))
    with pytest.raises(RequestError, match="are calibrated by a file already"):
        calibrate(calibrated, tmp_path / "e.json")


def test_a_finished_relabelled_output_is_returned_at_once_and_another_one_is_refused(
    plain: str, tmp_path: Path
) -> None:
    first = relabel(plain, tmp_path / "new", abstain_below=0.6)
    before = {path: path.read_bytes() for path in (tmp_path / "new").rglob("*") if path.is_file()}
    assert relabel(plain, tmp_path / "new", abstain_below=0.6) == first
    assert {path: path.read_bytes() for path in (tmp_path / "new").rglob("*") if path.is_file()} == before
    with pytest.raises(OutputError, match="contains another output; name a new directory"):
        relabel(plain, tmp_path / "new", abstain_below=0.7)
    with pytest.raises(OutputError, match="lie in each other"):
        relabel(plain, Path(plain) / "below", abstain_below=0.7)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/data.csv").write_text("a", encoding="utf-8")
    with pytest.raises(OutputError, match="contains files that tirazh did not write"):
        relabel(plain, tmp_path / "mine", abstain_below=0.7)


def test_the_source_is_not_changed(plain: str, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in Path(plain).rglob("*") if path.is_file()}
    relabel(plain, tmp_path / "new", abstain_below=0.6)
    assert {path: path.read_bytes() for path in Path(plain).rglob("*") if path.is_file()} == before


def test_a_relabelled_output_can_be_relabelled(plain: str, tmp_path: Path) -> None:
    relabel(plain, tmp_path / "one", abstain_below=0.9)
    relabel(str(tmp_path / "one"), tmp_path / "two", abstain_below=0.0)
    assert rows_of(str(tmp_path / "two")).equals(rows_of(plain))


def test_a_changed_part_of_the_source_is_named(plain: str, tmp_path: Path) -> None:
    part = min(Path(plain).glob("*.parquet"))
    table = pq.read_table(part)
    pq.write_table(table.set_column(0, "id", pa.array(np.zeros(table.num_rows, np.int64))), part)
    with pytest.raises(JobError, match=f"{part.name} was changed since it was written"):
        relabel(plain, tmp_path / "new", abstain_below=0.6)
    assert not (tmp_path / "new/_SUCCESS").exists()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"top": 2}, "only 2 of its 3 labels in a row, because of --top"),
        ({"priors": "balanced"}, "was made with --priors"),
        ({"labels": {"economics": "money", "sport": "sport", "culture": "culture"}}, "other words of the label"),
        ({"labels": {"economics": "economics", "sport": "sport"}}, "has 3 labels, but the job has 2"),
        ({"template": "{{ text }}\nTopic:"}, "was made without --template, not with"),
    ],
)
def test_a_calibration_of_other_scores_is_refused(
    job: Any, plain: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], sentence: str
) -> None:
    calibrate(plain, tmp_path / "c.json")
    scores = write_news(tmp_path, ROWS)[:, : len(settings.get("labels", LABELS))]
    jobs_with_scores(monkeypatch, scores)
    other = run(job(**settings, output=str(tmp_path / "other")))
    with pytest.raises(RequestError, match=sentence):
        relabel(other, tmp_path / "new", calibration=str(tmp_path / "c.json"))
    assert not (tmp_path / "new/_SUCCESS").exists()


def test_a_calibration_of_contextual_scores_is_for_such_an_output(job: Any, plain: str, tmp_path: Path) -> None:
    contextual = run(job(calibrate="contextual", output=str(tmp_path / "contextual")))
    assert calibrate(contextual, tmp_path / "c.json")["base"] == "contextual"
    with pytest.raises(
        RequestError, match=r"fitted on probabilities with --calibrate contextual, and those of .* without"
    ):
        relabel(plain, tmp_path / "new", calibration=str(tmp_path / "c.json"))
    relabel(contextual, tmp_path / "new", calibration=str(tmp_path / "c.json"))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "nothing would change"),
        ({"abstain_below": 0.5, "target_error": 0.1}, "cannot be used together"),
        ({"abstain_below": 1.5}, "--abstain-below must be between 0 and 1"),
        ({"abstain_below": 0.5, "gold": GoldSource(column="topic")}, "gold labels are for --target-error"),
        ({"abstain_below": 0.5, "question": "topic"}, "has no question 'topic'"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(plain: str, tmp_path: Path, given: Any, sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        relabel(plain, tmp_path / "new", **given)


def test_the_same_file_again_resumes_the_job_and_a_resumed_job_is_calibrated_too(
    job: Any, plain: str, tmp_path: Path
) -> None:
    calibrate(plain, tmp_path / "c.json")
    spec = job(calibrate=str(tmp_path / "c.json"), output=str(tmp_path / "calibrated"))
    expected = rows_of(run(spec))
    first, *others = sorted(Path(spec.output).glob("*.parquet"))
    first.unlink()
    kept = {path: path.stat().st_mtime_ns for path in others}
    calibrate(plain, tmp_path / "moved.json")  # another date and place, the same content
    run(job(calibrate=str(tmp_path / "moved.json"), output=spec.output))
    assert rows_of(spec.output).equals(expected)
    assert {path: path.stat().st_mtime_ns for path in others} == kept
    calibrate(plain, tmp_path / "c.json", method="temperature")
    with pytest.raises(OutputError, match="--calibrate differs"):
        run(spec)


def test_the_manifest_of_a_calibration_has_no_text_and_no_path(plain: str, tmp_path: Path) -> None:
    calibrate(plain, tmp_path / "c.json")
    text = (tmp_path / "c.json").read_text(encoding="utf-8")
    assert "text 1" not in text
    assert str(tmp_path) not in text
    values = json.loads(text)
    assert values["num_labels"] == len(values["label_names"]) == 3
    assert values["figures"]["rows"] == len(values["labelled_rows"]["winner_probability"]) == ROWS - 1


def test_another_file_is_not_overwritten_by_a_calibration(plain: str, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"a": 1}', encoding="utf-8")
    with pytest.raises(OutputError, match="is another file, not a calibration"):
        calibrate(plain, tmp_path / "mine.json")
    calibrate(plain, tmp_path / "c.json")
    calibrate(plain, tmp_path / "c.json", method="isotonic")
