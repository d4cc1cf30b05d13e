"""The data files of a table format are refused: only the table's log says which rows are in the table."""

from __future__ import annotations

import re
from pathlib import Path
from uuid import uuid4

import pytest

from tirazh.errors import InputError, StorageError
from tirazh.pipeline.input.listing.files import find_inputs
from tirazh.pipeline.storage.filesystem import Storage

LOGS = {
    "Delta": "_delta_log/00000000000000000000.json",
    "Hudi": ".hoodie/hoodie.properties",
    "Iceberg": "metadata/00001-0b7a55a7-8b0f-4d2a-9c55-3a2f1f5b8f11.metadata.json",
    "Spark streaming": "_spark_metadata/0",
}


@pytest.fixture(params=["disk", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "in") if request.param == "disk" else f"memory://{uuid4().hex}/in"


def write(place: str, *names: str) -> None:
    for name in names:
        Storage().write(f"{place}/{name}", b"PAR1" + bytes(20) + b"PAR1")


def refusal(uri: str) -> str:
    with pytest.raises(InputError) as refused:
        find_inputs(Storage(), [uri])
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("kind", LOGS)
def test_a_table_is_refused_with_the_way_to_its_rows(kind: str, place: str) -> None:
    write(place, LOGS[kind], "data/day=1/a.parquet", "data/day=1/b.parquet")
    sentence = refusal(place)
    assert re.match(rf"input {place} is an? {kind} table, whose log \(", sentence)
    assert sentence.endswith(('"rows.parquet")\'', ".write.parquet('rows') in PySpark"))


@pytest.mark.parametrize("kind", ["Delta", "Hudi", "Iceberg"])
@pytest.mark.parametrize(
    "named",
    [
        *("data", "data/day=1", "data/day=1/a.parquet", "*/*/*.parquet", "data/*", "data/day=*/a*.parquet"),
        *("**/*.parquet", "data/day=1/[ab].parquet"),
    ],
)
def test_whatever_is_in_a_table_is_refused_too(named: str, kind: str, place: str) -> None:
    write(place, LOGS[kind], "data/day=1/a.parquet", "data/day=1/b.parquet")
    assert f"the {kind} table {place}" in refusal(f"{place}/{named}")


@pytest.mark.parametrize("kind", LOGS)
def test_a_directory_with_a_table_below_is_refused(kind: str, place: str) -> None:
    write(place, f"t/{LOGS[kind]}", "t/a.parquet", "other/b.parquet")
    assert f"input {place} has files of the {kind} table {place}/t" in refusal(place)


def test_files_beside_a_table_are_read(place: str) -> None:
    write(place, f"t/{LOGS['Delta']}", "t/a.parquet", "other/b.parquet", "other/metadata/notes.json")
    for named in ("other", "other/b.parquet", "o*/*.parquet", "*/b.parquet"):
        assert [file.uri for file in find_inputs(Storage(), [f"{place}/{named}"]).files] == [f"{place}/other/b.parquet"]


def test_directories_above_that_may_not_be_listed_are_no_tables(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An access policy may allow the prefix of the input alone."""

    def refuse(storage: Storage, directory: str) -> list[str]:
        raise StorageError(f"{directory}: the storage refused to read")

    write(place, "day/a.parquet")
    monkeypatch.setattr(Storage, "names_in", refuse)
    assert len(find_inputs(Storage(), [f"{place}/day/*.parquet"]).files) == 1


def test_the_newest_version_of_an_iceberg_table_is_in_the_command(place: str) -> None:
    write(
        place,
        "metadata/v9.metadata.json",
        "metadata/v10.metadata.json",
        "metadata/v2.gz.metadata.json",
        "data/a.parquet",
    )
    assert "metadata/v10.metadata.json" in refusal(place)
