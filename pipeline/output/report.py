"""Writes the report of an output again: of a finished one, of a failed one, and of one that is not finished."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from tirazh.errors import InputError, OutputError, StorageError
from tirazh.pipeline.output.additions import additions_of
from tirazh.pipeline.output.names import CARD, FAILURE, MANIFEST, REPORT, OutputFiles
from tirazh.pipeline.output.plan_file import read_plan
from tirazh.pipeline.output.seal import seal_page
from tirazh.pipeline.output.unfinished import describe_unfinished, read_failure
from tirazh.pipeline.report.card import render_card
from tirazh.pipeline.report.content import sampled_columns
from tirazh.pipeline.report.page import render, render_unfinished
from tirazh.pipeline.report.sample import sample_rows
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage

# The kinds of jobs whose rows may be published as a dataset.
_CARD_KINDS = ("generate", "filter", "steps")


def pages_of(manifest: Mapping[str, Any], output: OutputFiles, *, comparison: Markup | None = None) -> dict[str, bytes]:
    """Render the report and, of generate, the dataset card; by the names of their files in `_tirazh/`.

    `output` is where the parts are. They are read for texts and figures; a part that cannot be read is none here.
    `comparison` is the section of a comparison with other outputs.
    """
    parts = [output.part(part["name"]) for part in manifest["parts"]]
    sample = sample_rows(output.storage, parts, sampled_columns(manifest))
    evaluations = read_evaluations(output)
    page = render(
        manifest,
        sample=sample,
        comparison=comparison,
        evaluations=evaluations,
        additions=additions_of(manifest, output),
    )
    pages = {REPORT: seal_page(page, manifest["plan_id"]).encode()}
    if manifest["kind"] in _CARD_KINDS:
        pages[CARD] = render_card(manifest, sample, evaluations=evaluations).encode()
    return pages


def read_evaluations(output: OutputFiles) -> list[dict[str, Any]]:
    """The evaluations that `tirazh evaluate` wrote; none if they cannot be read, as a page is written without them."""
    try:
        values = [json.loads(output.storage.read(uri)) for uri in output.evaluations()]
    except (InputError, OutputError, StorageError, ValueError, RecursionError):
        return []
    return [each for each in values if isinstance(each, dict)]


def unfinished_page(facts: Mapping[str, Any]) -> bytes:
    """Render the report of a job that is not finished from the facts of `unfinished.py`."""
    return seal_page(render_unfinished(facts), facts["plan_id"]).encode()


def write_report(output: str, *, comparison: Markup | None = None, endpoint_url: str | None = None) -> str:
    """Write the report of a job, and the dataset card beside it, and return the URI of the report.

    It shows `comparison`, a section about other outputs (`pipeline/drift`). The report of a job that failed, or that
    is not finished, says so, with the reason and what is finished so far, without a comparison. Raises OutputError
    for a directory that is not the output of a job.
    """
    storage = Storage(endpoint_url)
    files = OutputFiles.at(output, storage)
    manifest = _manifest(files)
    if manifest is None or FAILURE in storage.names(files.own()):
        return _write_unfinished(files)
    try:
        pages = pages_of(manifest, files, comparison=comparison)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(files, error) from error
    for name, page in pages.items():
        storage.write(files.own(name), page)
    return files.own(REPORT)


def _write_unfinished(files: OutputFiles) -> str:
    plan = read_plan(files)
    if plan is None:
        raise OutputError(
            f"{show_uri(files.directory)} is not the output of a finished job: it has no _tirazh/{MANIFEST}"
        )
    page = unfinished_page(read_failure(files) or describe_unfinished(plan, files))
    files.storage.write(files.own(REPORT), page)
    return files.own(REPORT)


def _manifest(files: OutputFiles) -> dict[str, Any] | None:
    try:
        return dict(json.loads(files.storage.read(files.own(MANIFEST))))
    except InputError:
        return None
    except (ValueError, TypeError, RecursionError) as error:
        raise _damaged(files, error) from error


def _damaged(files: OutputFiles, error: Exception) -> OutputError:
    return OutputError(f"{show_uri(files.own(MANIFEST))} is damaged ({type(error).__name__}); run the job again")
