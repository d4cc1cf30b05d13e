"""What a listing of a disk does with links, with things that are no files, and with directories it may not read."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from tirazh.errors import InputError
from tirazh.pipeline.storage.filesystem import Storage
from tirazh.pipeline.storage.listing import LINKED_TWICE, NO_FILE, NOTHING_THERE
from tirazh.pipeline.storage.patterns import Pattern


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "in/z").mkdir(parents=True)
    (tmp_path / "in/z/a.parquet").touch()
    return tmp_path / "in"


def keys(root: Path) -> list[str]:
    return sorted(file.key for file in Storage().walk(str(root)))


def reasons(root: Path) -> dict[str, str]:
    return {os.path.relpath(each.uri, root): each.reason for each in Storage().list_below(str(root)).passed_over}


def test_a_link_to_a_directory_above_ends(root: Path) -> None:
    (root / "z/loop").symlink_to(root)
    assert keys(root) == ["z/a.parquet"]
    assert reasons(root) == {"z/loop": LINKED_TWICE}


def test_a_directory_is_read_by_its_own_name_and_not_by_a_link_before_it(root: Path) -> None:
    (root / "a").symlink_to(root / "z")
    assert keys(root) == ["z/a.parquet"]
    assert reasons(root) == {"a": LINKED_TWICE}


def test_a_directory_outside_is_read_once_however_many_links_lead_to_it(root: Path) -> None:
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "b.parquet").touch()
    (outside / "back").symlink_to(root)
    for name in ("l2", "l1"):
        (root / name).symlink_to(outside)
    assert keys(root) == ["l1/b.parquet", "z/a.parquet"]
    assert reasons(root) == {"l1/back": LINKED_TWICE, "l2": LINKED_TWICE}


def test_links_to_nothing_and_to_each_other_are_named(root: Path) -> None:
    (root / "gone").symlink_to(root / "nothing")
    (root / "x").symlink_to(root / "y")
    (root / "y").symlink_to(root / "x")
    (root / ".hidden").symlink_to(root / "nothing")
    assert reasons(root) == dict.fromkeys(("gone", "x", "y"), NOTHING_THERE)


def test_a_pipe_is_never_opened(root: Path) -> None:
    os.mkfifo(root / "pipe.parquet")
    assert reasons(root) == {"pipe.parquet": NO_FILE}
    with pytest.raises(InputError, match=r"pipe\.parquet is neither a file nor a directory"):
        Storage().walk(str(root / "pipe.parquet"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_directory_below_that_may_not_be_read_is_named(root: Path) -> None:
    (root / "z").chmod(0)
    with pytest.raises(InputError, match=r"in/z cannot be read: permission denied"):
        keys(root)


def test_a_pattern_enters_only_directories_in_which_it_may_match(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("other/deep", "z/b/c", "_z"):
        (root / name).mkdir(parents=True)
    read = Counter[str]()
    scandir = os.scandir

    def counted(path: str) -> object:
        read[os.path.relpath(path, root)] += 1
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counted)
    (file,) = Storage().list_matching(Pattern(f"{root}/z*/*.parquet")).files
    assert (file.key, read) == ("z/a.parquet", {".": 1, "z": 1})


@pytest.mark.parametrize(
    ("pattern", "uri", "matches", "is_above"),
    [
        ("/d/*.parquet", "/d/a.parquet", True, False),
        ("/d/*.parquet", "/d/x/a.parquet", False, False),
        ("/d/*", "/d/x/a.parquet", False, True),
        ("/d/*", "/d/_x", False, False),
        ("/d/_*", "/d/_x", True, False),
        ("/d/*", "/d/x/_y/a.parquet", False, False),
        ("/d/**/*.parquet", "/d/a.parquet", True, False),
        ("/d/**/*.parquet", "/d/x/y/a.parquet", True, False),
        ("/d/**/*.parquet", "/d/x/.y/a.parquet", False, False),
        ("/d/**", "/d/x/y", True, True),
        ("/d/[!a]*", "/d/b", True, False),
        ("/_d/*", "/_d/b", True, False),
        ("s3://b/day=*/a?", "s3://b/day=1/a2", True, False),
    ],
)
def test_patterns_match_names_and_directories(pattern: str, uri: str, matches: bool, is_above: bool) -> None:
    assert Pattern(pattern).matches(uri) is matches
    assert Pattern(pattern).matches_above(uri) is is_above
