"""A crossing as an input: a file that does not exist, its footer, and its parts in read tasks."""

from __future__ import annotations

import pickle

import pytest

from tirazh.pipeline import schema
from tirazh.pipeline.crossing.crossing import Crossing
from tirazh.pipeline.crossing.layouts import EveryCell
from tirazh.pipeline.crossing.value_list import make_list
from tirazh.pipeline.input import datasource
from tirazh.pipeline.input.crossed import file_of, footer_of
from tirazh.pipeline.input.datasource import PartsDatasource
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.input.read import read_part
from tirazh.pipeline.storage.filesystem import Storage

CROSSING = Crossing((make_list("topic", ["a", "bcd"]), make_list("size", [1, 20, 300])), EveryCell(4))


def parts(crossing: Crossing = CROSSING) -> list[Part]:
    file = file_of(crossing)
    return [Part(index, 3, file, 8 * index, 8 * index + 8, crossing=crossing) for index in range(3)]


def test_the_footer_has_the_rows_columns_and_mean_bytes_of_the_crossing() -> None:
    footer = footer_of(CROSSING, limit=None, text_columns=["topic"])
    assert (footer.rows, footer.schema) == (24, CROSSING.schema)
    (group,) = footer.row_groups
    assert (group.text_bytes, group.all_bytes) == (24 * 2, 24 * 4)
    assert footer_of(CROSSING, limit=5, text_columns=[]).rows == 5


def test_rows_are_in_small_groups_whatever_their_number() -> None:
    large = Crossing(CROSSING.lists, EveryCell(300_000_000))
    footer = footer_of(large, limit=None, text_columns=["topic"])
    assert footer.rows == 1_800_000_000
    assert 8_000 < len(footer.row_groups) < 9_000


def test_other_rows_have_another_file() -> None:
    other = Crossing(CROSSING.lists, EveryCell(5))
    assert len({file_of(CROSSING).uri, file_of(other).uri, file_of(CROSSING.with_attempts([(0, 4)] * 6)).uri}) == 3


def test_a_part_has_its_rows_and_repetitions_without_a_file() -> None:
    table = read_part(parts()[1], Storage(), CROSSING.schema)
    assert table.column("topic").to_pylist() == ["a"] * 4 + ["bcd"] * 4
    assert table.column(schema.REPETITION).to_pylist() == [0, 1, 2, 3] * 2
    assert table.column(schema.PART).to_pylist() == [1] * 8


@pytest.mark.ray
@pytest.mark.usefixtures("ray_local")
def test_a_large_crossing_is_sent_once_and_not_with_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    large = Crossing(
        (make_list("topic", [f"{number:0100}" for number in range(3_000)]), CROSSING.lists[1]), EveryCell(4)
    )
    tasks = PartsDatasource(parts(large), Storage(), large.schema).get_read_tasks(3)
    monkeypatch.setattr(datasource, "_MAX_SENT_BYTES", 1 << 30)
    whole = PartsDatasource(parts(large), Storage(), large.schema).get_read_tasks(3)
    assert [next(iter(task())).equals(next(iter(other()))) for task, other in zip(tasks, whole, strict=True)] == [
        True
    ] * 3


def test_equal_parts_are_equal_whatever_their_crossing_object() -> None:
    part = parts()[0]
    copy = pickle.loads(pickle.dumps(part))
    assert (copy, hash(copy)) == (part, hash(part))
