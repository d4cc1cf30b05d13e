"""The baselines of an output: patterns, names, dates, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.pipeline.drift.nights import Night, write_night
from tests.seaweedfs import SeaweedServer
from tirazh.errors import OutputError
from tirazh.pipeline.drift.baselines import open_baselines
from tirazh.pipeline.storage.filesystem import Storage

SMALL = Night(rows=40)


def nights(directory: Path | str, days: range = range(20, 24)) -> list[str]:
    return [write_night(f"{directory}/2026-11-{day}", SMALL) for day in days]


def names(output: str, against: list[str]) -> list[str]:
    return [each.name for each in open_baselines(output, against, Storage()).baselines]


def test_a_pattern_names_the_outputs_in_the_order_of_their_days_without_the_output_itself(tmp_path: Path) -> None:
    *_, last = nights(tmp_path / "daily")
    (tmp_path / "daily/2026-11-01-notes").mkdir()
    assert names(last, [f"{tmp_path}/daily/2026-11-*"]) == ["2026-11-20", "2026-11-21", "2026-11-22"]
    some = [f"{tmp_path}/daily/*-2[12]", f"{tmp_path}/daily/2026-11-20"]
    assert names(last, some) == ["2026-11-20", "2026-11-21", "2026-11-22"]
    assert names(last, [f"{tmp_path}/*/2026-11-22"]) == ["2026-11-22"]


@pytest.mark.s3
def test_patterns_are_found_in_an_object_store(
    s3_server: SeaweedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bucket = s3_server.make_bucket("nights")
    storage = Storage(s3_server.endpoint_url)
    for output in nights(tmp_path):
        for file in Path(output).rglob("*"):
            if file.is_file():
                storage.write(f"{bucket}/daily/{file.relative_to(tmp_path).as_posix()}", file.read_bytes())
    found = open_baselines(f"{bucket}/daily/2026-11-23", [f"{bucket}/daily/2026-11-*"], storage)
    assert [each.name for each in found.baselines] == ["2026-11-20", "2026-11-21", "2026-11-22"]
    assert found.together == "the last 3 nights"


def test_an_unfinished_output_is_refused_by_its_name_and_left_out_of_a_pattern(tmp_path: Path) -> None:
    first, second, last = nights(tmp_path, range(20, 23))
    (Path(first) / "_SUCCESS").unlink()
    with pytest.raises(OutputError, match="2026-11-20 is not finished; run its job again first"):
        names(last, [first])
    found = open_baselines(last, [f"{tmp_path}/*"], Storage())
    assert [each.found.files.directory for each in found.baselines] == [second]
    assert found.left_out == (f"{first} is not finished; run its job again first (left out)",)


def test_wrong_baselines_are_refused_in_a_sentence(tmp_path: Path) -> None:
    first, last = nights(tmp_path, range(20, 22))
    (tmp_path / "empty").mkdir()
    other = write_night(tmp_path / "texts", SMALL, kind="generate")
    damaged = Path(write_night(tmp_path / "damaged", SMALL))
    (damaged / "_tirazh/manifest.json").write_text("{", encoding="utf-8")
    for against, says in (
        ([first, last], "2026-11-21 cannot be compared with itself"),
        ([f"{tmp_path}/2025-*"], "no other finished output matches .*2025-"),
        ([str(tmp_path / "empty")], "empty is not the output of a job: it has no _tirazh/manifest.json"),
        ([str(tmp_path / "nowhere")], "nowhere is not the output of a job"),
        ([other], "texts is an output of generate, not of classify, so they cannot be compared"),
        ([str(damaged)], "manifest.json is damaged"),
    ):
        with pytest.raises(OutputError, match=says) as error:
            names(last, against)
        assert "\n" not in str(error.value)


def test_an_output_of_this_very_name_is_no_pattern(tmp_path: Path) -> None:
    odd = write_night(tmp_path / "night [1]", SMALL)
    last = write_night(tmp_path / "last", SMALL)
    assert names(last, [odd]) == ["night [1]"]


def test_names_are_as_long_as_needed_to_tell_outputs_apart(tmp_path: Path) -> None:
    first, second = write_night(tmp_path / "a/out", SMALL), write_night(tmp_path / "b/out", SMALL)
    last = write_night(tmp_path / "c/last", SMALL)
    assert names(last, [second, first]) == ["a/out", "b/out"]


def test_the_date_is_that_of_the_last_run_else_that_in_the_name(tmp_path: Path) -> None:
    end = "2026-11-24T03:12:00+00:00"
    dated = write_night(tmp_path / "first", SMALL, manifest={"end": end})
    with_history = write_night(tmp_path / "second", SMALL)
    lines = [{"begin": "2026-11-25T01:00:00Z", "end": "2026-11-25T02:00:00Z"}, {"begin": "2026-11-26T01:00:00Z"}]
    text = "\n".join(map(json.dumps, lines)) + "\nnot JSON\n"
    (Path(with_history) / "_tirazh/runs.jsonl").write_text(text, encoding="utf-8")
    named = write_night(tmp_path / "2026-11-20", SMALL)
    unknown = write_night(tmp_path / "other", SMALL)
    last = write_night(tmp_path / "2026-11-30", SMALL)
    found = open_baselines(last, [dated, with_history, named, unknown], Storage())
    assert {each.name: each.date for each in found.baselines} == {
        "first": end,
        "second": "2026-11-26T01:00:00Z",
        "2026-11-20": "2026-11-20",
        "other": "",
    }
    assert found.together == "the 4 baselines"


def test_baselines_of_earlier_days_are_nights(tmp_path: Path) -> None:
    first, second, third = nights(tmp_path, range(20, 23))
    assert open_baselines(third, [first, second], Storage()).together == "the last 2 nights"
    assert open_baselines(first, [second, third], Storage()).together == "the 2 baselines"
    assert open_baselines(third, [first], Storage()).together == "2026-11-20"
