"""Which rows are dropped as duplicates, and which stay."""

from __future__ import annotations

import random
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pipeline.quality.dedup.found import (
    EXACT,
    NEAR,
    by_row,
    mask,
    run_backwards,
    slowly,
    write_parts,
)
from tests.pipeline.quality.dedup.planted import news_texts, plant, similarity
from tirazh.errors import InputError, JobError
from tirazh.pipeline.quality.dedup.config import DedupConfig
from tirazh.pipeline.quality.dedup.duplicates import Duplicates
from tirazh.pipeline.quality.dedup.find import find_duplicates
from tirazh.pipeline.quality.dedup.side_file import SideFile
from tirazh.pipeline.quality.dedup.tasks import run_on_ray
from tirazh.pipeline.storage.filesystem import Storage

WORDS = [f"{first}{second}" for first in ("слово", "word", "mot", "ord") for second in "абвгдежзик"]
HEADLINE = " ".join(WORDS[:30])
CLOSE = " ".join([*WORDS[:29], "другое"])


def find(files: list[SideFile], config: DedupConfig = NEAR, **more: object) -> Duplicates:
    return find_duplicates(files, config, storage=Storage(), **more)  # type: ignore[arg-type]


def test_200_titles_of_which_32_are_distinct_have_168_duplicates(tmp_path: Path) -> None:
    chance = random.Random(1)
    titles = [" ".join(chance.sample(WORDS, 4)) for _ in range(32)]
    rows = titles + [chance.choice(titles) for _ in range(168)]
    chance.shuffle(rows)
    for name, config in (("exact", EXACT), ("near", NEAR)):
        (tmp_path / name).mkdir()
        duplicates = find(write_parts(tmp_path / name, rows, range(20, 200, 20), config), config)
        assert duplicates.count() == duplicates.count("duplicate") == 168


def test_the_first_row_stays_and_each_dropped_row_has_its_reason(tmp_path: Path) -> None:
    rows = [HEADLINE, "Коротко", CLOSE, None, f"  {HEADLINE.upper()} ", "коротко", None, CLOSE]
    assert by_row(find(write_parts(tmp_path, rows))) == {
        2: ("near_duplicate", 0),
        4: ("duplicate", 0),
        5: ("duplicate", 1),
        7: ("near_duplicate", 0),
    }


def test_exact_keeps_near_duplicates(tmp_path: Path) -> None:
    rows = [HEADLINE, CLOSE, HEADLINE]
    assert by_row(find(write_parts(tmp_path, rows, config=EXACT), EXACT)) == {2: ("duplicate", 0)}


def test_rows_that_take_no_part_are_not_dropped_and_drop_no_other(tmp_path: Path) -> None:
    rows = [HEADLINE, HEADLINE, CLOSE, HEADLINE]
    files = write_parts(tmp_path, rows, [2])
    assert by_row(find(files, eligible={0: mask([False, True])}), [2]) == {
        2: ("near_duplicate", 1),
        3: ("duplicate", 1),
    }
    assert by_row(find(files, eligible={0: mask([True, False]), 1: mask([False, False])}), [2]) == {}


def test_a_chain_of_small_changes_keeps_rows_that_differ_from_every_other_that_stays(tmp_path: Path) -> None:
    """Connected components would drop all rows but the first, although the last one shares no word with it."""
    words = [f"слово{number}" for number in range(80)]
    rows = [" ".join(words[start : start + 40]) for start in range(0, 41, 2)]
    dropped = by_row(find(write_parts(tmp_path, rows)))
    assert dropped == slowly(rows)
    assert len(dropped) >= 10
    staying = [row for row in range(len(rows)) if row not in dropped]
    assert len(staying) >= 4
    for row, (_, survivor) in dropped.items():
        assert survivor in staying
        assert similarity(rows[row], rows[survivor]) >= 0.65


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)])
def test_planted_near_duplicates_of_real_texts_are_found(seed: int, news_dir: Path, tmp_path: Path) -> None:
    originals = news_texts(news_dir, seed=seed)
    rows, pairs = plant(originals, 1_800, seed=seed)
    dropped = by_row(find(write_parts(tmp_path, rows, range(1_000, len(rows), 1_000))), range(1_000, len(rows), 1_000))
    similarities = np.array([similarity(rows[one], rows[other]) for one, other in pairs])
    is_found = np.array([other in dropped for _, other in pairs])
    assert is_found[similarities >= 0.9].mean() >= 0.99
    assert is_found[(similarities >= 0.8) & (similarities < 0.9)].mean() >= 0.97
    flagged = np.array([similarity(rows[row], rows[survivor]) for row, (_, survivor) in dropped.items()])
    assert (flagged >= 0.5).mean() >= 0.99
    assert (flagged >= 0.7).mean() >= 0.95


VARIANTS = st.builds(
    lambda start, length, changed, word: " ".join(
        [*WORDS[start : start + length], *([word] if changed else []), *WORDS[start + length + changed : 40]]
    ),
    st.sampled_from([0, 1, 2, 20]),
    st.integers(0, 40),
    st.booleans(),
    st.sampled_from(["alpha", "beta"]),
)
ROWS = st.lists(st.none() | VARIANTS | st.sampled_from(["", "short", HEADLINE, CLOSE]), min_size=1, max_size=20)


@settings(max_examples=15)
@given(rows=ROWS, data=st.data())
def test_the_same_rows_stay_for_any_cut_into_parts_and_any_order_of_tasks(
    rows: list[str | None], data: st.DataObject
) -> None:
    eligible = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=3)))
    bounds = [0, *cuts, len(rows)]
    masks = {part: mask(eligible[start:stop]) for part, (start, stop) in enumerate(pairwise(bounds))}
    with tempfile.TemporaryDirectory() as directory:
        files = write_parts(Path(directory), rows, cuts)
        shuffled = data.draw(st.permutations(files))
        expected = slowly(rows, eligible)
        assert by_row(find(shuffled, eligible=masks), cuts) == expected
        assert by_row(find(files, eligible=masks, run=run_backwards), cuts) == expected


def test_very_many_rows_of_one_pattern_take_linear_time(tmp_path: Path) -> None:
    """They share bands, and are near to the first of them: nothing compares all pairs."""
    rows = [f"{HEADLINE} {number}" for number in range(5_000)]
    duplicates = find(write_parts(tmp_path, rows))
    assert duplicates.count("near_duplicate") == 4_999
    assert set(duplicates.of(0).survivor_rows.tolist()) == {0}


def test_no_parts_and_empty_parts_have_no_duplicates(tmp_path: Path) -> None:
    assert find([]).count() == 0
    assert find(write_parts(tmp_path, [], [0, 0])).count() == 0
    assert find(write_parts(tmp_path, [None, "", "кратко"], [1])).count() == 0


def test_a_mask_of_another_length_and_a_missing_side_file_are_reported(tmp_path: Path) -> None:
    files = write_parts(tmp_path, [HEADLINE, CLOSE])
    with pytest.raises(JobError, match=r"0\.parquet has 2 rows, not those of its part"):
        find(files, eligible={0: mask([True])})
    with pytest.raises(InputError, match=r"9\.parquet does not exist"):
        find([*files, SideFile(9, str(tmp_path / "9.parquet"))])


def test_duplicates_are_stored_and_read_back(tmp_path: Path) -> None:
    found = find(write_parts(tmp_path, [HEADLINE, CLOSE, HEADLINE, "a", "a"], [1, 4]))
    read = Duplicates.from_bytes(found.to_bytes())
    assert by_row(read, [1, 4]) == by_row(found, [1, 4]) != {}
    assert read.to_bytes() == found.to_bytes()
    assert read.of(7).names == []
    assert Duplicates.from_bytes(Duplicates({}, ("out",)).to_bytes()).earlier == ("out",)
    for bad in (b"", found.to_bytes()[:-5], (tmp_path / "0.parquet").read_bytes()):
        with pytest.raises(ValueError, match="not a list of duplicates"):
            Duplicates.from_bytes(bad)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_local")
def test_ray_finds_the_same_and_passes_the_error_of_a_task_on(tmp_path: Path) -> None:
    chance = random.Random(3)
    rows, _ = plant([" ".join(chance.choices(WORDS, k=40)) for _ in range(200)], 100, seed=3)
    cuts = range(20, 300, 20)
    files = write_parts(tmp_path, rows, cuts)
    assert by_row(find(files, run=run_on_ray), cuts) == by_row(find(files), cuts) == slowly(rows) != {}
    Path(files[3].uri).write_bytes(b"PAR1")
    with pytest.raises(JobError, match=r"3\.parquet cannot be used: it is damaged"):
        find(files, run=run_on_ray)
