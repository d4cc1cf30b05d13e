"""Directories of any layout: every file is read, or passed over with a reason, or hidden by its name.

The expected matches of a pattern come from the standard library's `glob`, which shares no code with the listing.
"""

from __future__ import annotations

import glob
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import fsspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tirazh.errors import InputError
from tirazh.pipeline.input.listing.files import InputListing, find_inputs
from tirazh.pipeline.storage.filesystem import Storage

PARQUET = b"PAR1" + bytes(20) + b"PAR1"
CONTENTS = (PARQUET, b"id,text\n1,this is some text\n", b"", b"PAR1")
SUFFIXES = ("", ".parquet", ".PARQUET", ".pq", ".csv", ".parquet.gz", ".crc", "_0")
STEMS = ("a", "b", "ab", "_a", ".b", "имя", "a b", "x=1", "[ab]", "a*", "?", "#1", "100%", "it's", "{a}", "a,b;c")
PATTERNS = ("*", "*/*", "**/*", "**", "*.parquet", "**/*.parquet", "a*", "[ab]*", "?", "*/a*", "x=*", "**/a/*", "[!a]*")

names = st.builds(lambda stem, suffix: stem + suffix, st.sampled_from(STEMS), st.sampled_from(SUFFIXES))
directories = st.lists(st.sampled_from([*STEMS, "day=1", "_tmp"]), max_size=2, unique=True)  # no column twice
paths = st.builds(lambda above, name: "/".join([*above, name]), directories, names)
layouts = st.dictionaries(paths, st.sampled_from(CONTENTS), min_size=1, max_size=8)


def make(root: Path, layout: dict[str, bytes]) -> dict[str, bytes]:
    """Write the files whose paths do not need a file to be a directory, and return them."""
    written = {}
    for path, content in layout.items():
        if any(path.startswith(f"{other}/") or other.startswith(f"{path}/") for other in layout):
            continue
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
        written[path] = content
    return written


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory).resolve() / "in"
        root.mkdir()
        yield root


def found(uri: str) -> InputListing | None:
    """What is listed for an input; None for one that is refused for having no Parquet file."""
    try:
        return find_inputs(Storage(), [uri])
    except InputError as error:
        check_refusal(str(error), "no .parquet file", "no file matches")
        return None


def check_refusal(sentence: str, *reasons: str) -> None:
    assert any(reason in sentence for reason in reasons), sentence
    assert "\n" not in sentence


def is_hidden(path: str) -> bool:
    return any(name[0] in "_." for name in path.split("/"))


def is_parquet_name(path: str) -> bool:
    return path.lower().endswith((".parquet", ".pq", ".parq"))


def expected(root: Path, pattern: str, files: dict[str, bytes]) -> tuple[set[str], set[str]]:
    """The paths that are read and those that are passed over."""
    meant = root / pattern
    if os.path.lexists(meant):  # the name of a file or a directory
        if meant.is_file():
            return {pattern}, set()
        below = {path for path in files if path.startswith(f"{pattern}/")}
        visible = {path for path in below if not is_hidden(path.removeprefix(f"{pattern}/"))}
        named: set[str] = set()
    else:
        # The standard library's patterns match names that begin with an underscore.
        matches = {os.path.relpath(each, root) for each in glob.glob(str(meant), recursive=True)} - {"."}
        matches = {match for match in matches if not is_hidden(match)}
        named = matches & files.keys()
        above = matches - named | ({""} if pattern == "**" else set())
        visible = named | {
            path
            for path in files
            for match in above
            if path.startswith(f"{match}/" if match else "") and not is_hidden(path.removeprefix(match).lstrip("/"))
        }
    read = {path for path in visible if is_parquet_name(path)}
    read |= {path for path in named if files[path] == PARQUET}
    return read, visible - read


@given(layouts, st.sampled_from(["", *PATTERNS]))
def test_every_visible_file_is_read_or_passed_over(layout: dict[str, bytes], pattern: str) -> None:
    with folder() as root:
        files = make(root, layout)
        assume(files)
        listing = found(str(root / pattern) if pattern else str(root))
        if pattern:
            read, passed_over = expected(root, pattern, files)
        else:
            visible = {path for path in files if not is_hidden(path)}
            read = {path for path in visible if is_parquet_name(path)}
            passed_over = visible - read
        if listing is None:
            assert not read
            return
        assert {os.path.relpath(file.uri, root) for file in listing.files} == read
        assert {os.path.relpath(each.uri, root) for each in listing.passed_over} == passed_over
        assert all(each.reason for each in listing.passed_over)
        said = f"{len(passed_over)} file{' was' if len(passed_over) == 1 else 's were'} passed over: "
        assert [note.startswith(said) for note in listing.notes] == ([True] if passed_over else [])


@given(layouts, st.sampled_from(["", *PATTERNS]))
def test_a_disk_and_a_store_give_the_same_files(layout: dict[str, bytes], pattern: str) -> None:
    store, uri = fsspec.filesystem("memory"), f"memory://{uuid4().hex}/in"
    with folder() as root:
        files = make(root, layout)
        assume(files)
        for path, content in files.items():
            store.pipe_file(f"{uri}/{path}", content)
        on_disk, in_store = (found(f"{place}/{pattern}" if pattern else place) for place in (str(root), uri))
        store.rm(uri.rpartition("/")[0], recursive=True)
        assert (on_disk is None) == (in_store is None)
        if on_disk is not None and in_store is not None:
            assert [file.key for file in on_disk.files] == [file.key for file in in_store.files]
            assert on_disk.notes == in_store.notes


@given(layouts)
def test_every_file_can_be_named(layout: dict[str, bytes]) -> None:
    with folder() as root:
        for path, content in make(root, layout).items():
            if content == PARQUET:
                (file,) = find_inputs(Storage(), [str(root / path)]).files
                assert file.uri == str(root / path)


@given(layouts, st.lists(st.tuples(paths, paths), max_size=4))
def test_links_end_and_give_each_file_once(layout: dict[str, bytes], links: list[tuple[str, str]]) -> None:
    """Links to files, to directories (also above themselves), to each other and to nothing."""
    with folder() as root:
        files = make(root, layout)
        made = []
        for name, target in links:
            link = root / name
            if link.parent.is_dir() and not os.path.lexists(link):
                goal = root / (target if target in files else os.path.dirname(target))
                link.symlink_to(goal if len(target) % 3 else root / "gone")
                made.append(link)
        assume(files and made)
        try:
            listing = find_inputs(Storage(), [str(root)])
        except InputError as error:
            check_refusal(str(error), "no .parquet file", "which does not exist")
            return
        real = [os.path.realpath(file.uri) for file in listing.files]
        assert len(real) == len(set(real))
        read, passed_over = {file.uri for file in listing.files}, {each.uri for each in listing.passed_over}
        assert not read & passed_over
        for path in files:
            is_read = str(root / path) in real
            is_read_by_its_name = is_parquet_name(path) and not is_hidden(path)
            assert is_read or str(root / path) in passed_over or is_hidden(path), path
            assert is_read or not is_read_by_its_name, path
        for link in made:
            below = [each for each in (*read, *passed_over) if each == str(link) or each.startswith(f"{link}/")]
            is_empty = link.is_dir() and not any(link.iterdir())
            hidden_below = link.is_dir() and all(entry.name[0] in "_." or entry.is_dir() for entry in link.iterdir())
            assert below or is_empty or hidden_below or is_hidden(str(link.relative_to(root))), link


@pytest.mark.parametrize("name", ["[ab].parquet", "a*.parquet", "?.parquet", "[!a]"])
def test_a_name_with_wildcards_is_that_file_and_not_a_pattern(name: str, tmp_path: Path) -> None:
    store, uri = fsspec.filesystem("memory"), f"memory://{uuid4().hex}/in"
    for other in (name, "a.parquet", "b.parquet", "a1.parquet"):
        (tmp_path / other).write_bytes(PARQUET)
        store.pipe_file(f"{uri}/{other}", PARQUET)
    for place in (str(tmp_path), uri):
        (file,) = find_inputs(Storage(), [f"{place}/{name}"]).files
        assert file.uri == f"{place}/{name}"


def test_a_directory_with_wildcards_in_its_name_is_that_directory(tmp_path: Path) -> None:
    store, uri = fsspec.filesystem("memory"), f"memory://{uuid4().hex}"
    for directory in ("day[1]", "day1"):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "a.parquet").write_bytes(PARQUET)
        store.pipe_file(f"{uri}/{directory}/a.parquet", PARQUET)
    for place in (str(tmp_path), uri):
        (file,) = find_inputs(Storage(), [f"{place}/day[1]"]).files
        assert (file.uri, file.key) == (f"{place}/day[1]/a.parquet", "a.parquet")
