"""Old outputs are removed, and nothing else: every reason to keep one is a test here."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.history.test_state import set_age
from tests.pipeline.output.conftest import MakeSpec
from tirazh.errors import JobError, RequestError
from tirazh.pipeline.build import run_job
from tirazh.pipeline.history import prune as prune_module
from tirazh.pipeline.history.prune import Pruned, prune
from tirazh.pipeline.output.guarded import GuardedOutput
from tirazh.pipeline.output.leases.lease import hold
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.storage.filesystem import Storage, is_remote

pytestmark = pytest.mark.usefixtures("no_ray")
KEEP_S = 30 * 86_400.0


@pytest.fixture
def nights(job_output: OutputFiles, make_spec: MakeSpec) -> Callable[..., OutputFiles]:
    """`nights("23", age_h=…)` makes a complete output below the directory `job_output`."""

    def make(name: str, *, age_h: float = 31 * 24) -> OutputFiles:
        files = OutputFiles(job_output.storage, f"{job_output.directory}/{name}")
        run_job(make_spec(output=files.directory))
        set_age(files, age_h)
        return files

    return make


def pruned(output: OutputFiles, *, dry_run: bool = False) -> list[Pruned]:
    return list(prune(output.directory, keep_s=KEEP_S, dry_run=dry_run))


def test_an_old_output_is_removed_and_a_young_one_kept(
    job_output: OutputFiles, nights: Callable[..., OutputFiles]
) -> None:
    old, young = nights("2026/09/23"), nights("2026/10/24", age_h=29 * 24)
    (dry, _) = pruned(job_output, dry_run=True)
    assert (dry.output, dry.removed) == (old.directory, True)
    assert old.is_complete()
    removed, kept = pruned(job_output)
    assert (removed.output, removed.removed, removed.reason) == (old.directory, True, "")
    assert (kept.output, kept.removed, kept.reason) == (young.directory, False, "it is young enough")
    assert files_of(old) == []
    assert young.is_complete()
    if not is_remote(old.directory):
        assert not Path(old.directory).exists()
    assert [found.output for found in pruned(job_output)] == [young.directory]


def test_an_output_that_a_run_holds_is_kept(job_output: OutputFiles, nights: Callable[..., OutputFiles]) -> None:
    files = nights("23")
    with hold(files, lease_s=60):
        (found,) = pruned(job_output)
    assert not found.removed
    assert found.reason.startswith("a run writes to it (process ")
    assert files.is_complete()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda files: files.storage.remove(files.part("_SUCCESS")), "it is not complete"),
        (lambda files: files.storage.remove(files.own("manifest.json")), "its manifest is missing or damaged"),
        (lambda files: files.storage.write(files.part("_SUCCESS"), b"another plan"), "may not be an output"),
        (lambda files: files.storage.write(files.part("notes.txt"), b"mine"), "tirazh did not write (notes.txt)"),
        (lambda files: files.storage.write(files.part(".hidden"), b"mine"), "tirazh did not write (.hidden)"),
        (lambda files: files.storage.write(files.part("mine/a.parquet"), b"mine"), "tirazh did not write (mine)"),
    ],
)
def test_what_is_no_complete_output_of_tirazh_alone_is_kept(
    job_output: OutputFiles,
    nights: Callable[..., OutputFiles],
    change: Callable[[OutputFiles], None],
    says: str,
) -> None:
    files = nights("23")
    change(files)
    before = files_of(files)
    (found,) = pruned(job_output)
    assert not found.removed
    assert says in found.reason
    assert files_of(files) == before


def test_a_directory_that_is_itself_an_output_and_a_missing_one_are_refused(
    nights: Callable[..., OutputFiles], tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match="is itself an output; name the directory that holds the outputs"):
        pruned(nights("23"))
    with pytest.raises(RequestError, match="is not a directory"):
        list(prune(str(tmp_path / "nowhere"), keep_s=1, dry_run=False))


def test_links_are_not_followed(make_spec: MakeSpec, tmp_path: Path) -> None:
    outside = OutputFiles(Storage(), str(tmp_path / "elsewhere" / "23"))
    run_job(make_spec(output=outside.directory))
    set_age(outside, 31 * 24)
    labelled = tmp_path / "labelled"
    labelled.mkdir()
    (labelled / "23").symlink_to(outside.directory)
    (labelled / "all").symlink_to(tmp_path / "elsewhere")
    copy = labelled / "24"
    copy.mkdir()
    (copy / "_tirazh").symlink_to(f"{outside.directory}/_tirazh")
    found = list(prune(str(labelled), keep_s=KEEP_S, dry_run=False))
    assert found == []
    assert (copy / "_tirazh").is_symlink()
    assert outside.is_complete()


def test_a_run_that_starts_during_the_removal_is_refused(
    job_output: OutputFiles, nights: Callable[..., OutputFiles], make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = nights("23")
    told: list[str] = []
    remove = prune_module._remove

    def removing(target: OutputFiles, lease: Any) -> None:
        target.storage.remove(target.part("_SUCCESS"))  # so that a run has something to do
        with pytest.raises(JobError) as caught:
            run_job(make_spec(output=files.directory))
        told.append(str(caught.value))
        remove(target, lease)

    monkeypatch.setattr(prune_module, "_remove", removing)
    (found,) = pruned(job_output)
    assert found.removed
    assert "another run writes to" in told[0]
    monkeypatch.undo()


@pytest.mark.parametrize("step", range(0, 14, 2))
def test_a_removal_that_was_killed_is_continued(
    job_output: OutputFiles, nights: Callable[..., OutputFiles], monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    class Killed(BaseException):
        pass

    files = nights("23")
    remove, left = Storage.remove, [step]

    def dying(storage: Storage, uri: str, **options: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        remove(storage, uri, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "remove", dying)
        try:
            pruned(job_output)
        except Killed:
            assert files_of(files)
    for found in pruned(job_output):
        assert found.removed, found.reason
    assert files_of(files) == []


def test_an_unfinished_job_in_a_half_removed_output_is_kept(
    job_output: OutputFiles, nights: Callable[..., OutputFiles], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    files = nights("23")

    def die(*arguments: Any, **options: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(GuardedOutput, "reopen", die)
        with pytest.raises(Killed):
            pruned(job_output)
    files.storage.remove(files.part("_SUCCESS"))
    with hold(files, lease_s=60):
        pass  # a run has begun since, and was stopped
    (found,) = pruned(job_output)
    assert (found.removed, found.reason) == (False, "it is not complete")


def files_of(output: OutputFiles) -> list[str]:
    """The paths of all files of an output, besides its lease and its history."""
    if not is_remote(output.directory):
        return sorted(
            os.path.join(folder, name)
            for folder, _, names in os.walk(output.directory)
            for name in names
            if "leases" not in folder
        )
    found = [f"{output.directory}/{name}" for name in output.storage.names(output.directory)]
    return sorted([*found, *(output.own(name) for name in output.storage.names(output.own()))])
