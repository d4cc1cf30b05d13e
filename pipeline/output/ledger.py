"""The state of an output directory: finished parts, the manifest, and verification.

Everything is derived from the files themselves. The plan lists the parts that must exist, and a part's
receipt describes its file.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tirazh.errors import InputError, JobError, OutputError
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.output.names import MANIFEST, REPORT, SUCCESS, OutputFiles, receipt_name
from tirazh.pipeline.output.plan_file import read_plan
from tirazh.pipeline.output.report import quality, render
from tirazh.pipeline.output.write import FOOTER_KEY, Receipt
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.spec import JobSpec
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage

# Receipts are small, so reading them from an object store is bound by latency, not by bandwidth.
_THREADS = 16
_SHOWN = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """The result of `verify`.

    `problems` are sentences; without any, every input row is there exactly once.
    """

    output: str
    parts: int
    parts_expected: int
    rows: int
    rows_expected: int
    problems: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Whether no problem was found."""
        return not self.problems


def unfinished(plan: Plan, output: OutputFiles) -> list[Part]:
    """The parts without a file. Takes one listing and opens no file."""
    done = output.finished(len(plan.parts))
    return [part for part in plan.parts if part.index not in done]


def remaining_parts(plan: Plan, output: OutputFiles) -> list[Part]:
    """The parts without a file or without a receipt. Takes two listings.

    A part that is made again is the same file, byte for byte.
    """
    receipts, missing = output.receipts(), {part.index for part in unfinished(plan, output)}
    return [part for part in plan.parts if part.index in missing or receipt_name(part.name) not in receipts]


def read_receipts(plan: Plan, output: OutputFiles, parts: Iterable[Part]) -> list[Receipt]:
    """Read the receipts of `parts`, in their order.

    Raises JobError for one that is missing or damaged.
    """

    def read(part: Part) -> Receipt:
        try:
            return Receipt.from_json(output.storage.read(output.receipt(part.name)))
        except InputError:
            raise JobError(
                f"{show_uri(output.part(part.name))} has no receipt; remove the file and run the job again"
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise JobError(
                f"{show_uri(output.receipt(part.name))} is damaged ({type(error).__name__}); remove it and run the job "
                "again"
            ) from error

    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(read, parts))


def finish(
    plan: Plan, output: OutputFiles, spec: JobSpec, facts: dict[str, Any], *, confirm: Callable[[], None] | None = None
) -> dict[str, Any]:
    """Write the manifest, the report and `_SUCCESS`, in this order, and return the manifest.

    All parts must exist. `confirm` is called directly before `_SUCCESS` is written and may raise to
    prevent it. Raises JobError if the size of a part file differs from its receipt.
    """
    receipts = read_receipts(plan, output, plan.parts)
    # The sizes of all parts come from one listing. `verify` checks the content.
    sizes = output.storage.names(output.directory)
    for part, receipt in zip(plan.parts, receipts, strict=True):
        if sizes.get(part.name) != receipt.file_bytes:
            raise JobError(
                f"{show_uri(output.part(part.name))} does not match its receipt ({sizes.get(part.name, 'no')} bytes, "
                f"not {receipt.file_bytes}); remove the file and run the job again"
            )
    manifest = build_manifest(plan, receipts, spec, facts, output=output.directory)
    output.storage.write(output.own(MANIFEST), json.dumps(manifest, ensure_ascii=False, indent=1).encode())
    output.storage.write(output.own(REPORT), render(manifest).encode())
    # `_SUCCESS` must be the last write: readers take an output with it as complete.
    if confirm is not None:
        confirm()
    output.storage.write(output.part(SUCCESS), b"")
    return manifest


def build_manifest(
    plan: Plan, receipts: Sequence[Receipt], spec: JobSpec, facts: dict[str, Any], *, output: str
) -> dict[str, Any]:
    """Collect everything about a finished job.

    `facts` are those of the last run: seconds, replicas, library versions on the replicas. `output`
    is the URI of the output directory.
    """
    return {
        "kind": spec.kind,
        "output": show_uri(output),
        "rows": sum(receipt.rows for receipt in receipts),
        "errors": sum(receipt.errors for receipt in receipts),
        "prompt_tokens": sum(receipt.prompt_tokens for receipt in receipts),
        "completion_tokens": sum(receipt.completion_tokens for receipt in receipts),
        "estimated_tokens": plan.estimated_tokens,
        "num_parts": len(receipts),
        **quality(receipts),
        **facts,
        "dtype": plan.dtype,
        "fingerprint": plan.fingerprint,
        "model_fingerprint": plan.model_fingerprint,
        "versions": {"python": platform.python_version(), **_versions(), **facts.get("versions", {})},
        "spec": spec.to_dict(),  # contains no secrets: a spec refuses them
        "parts": [
            {"name": part.name, "input": show_uri(part.file.uri), "start": part.start, "stop": part.stop}
            | {name: value for name, value in asdict(receipt).items() if name in _PART_FACTS}
            for part, receipt in zip(plan.parts, receipts, strict=True)
        ],
    }


_PART_FACTS = ("rows", "errors", "prompt_tokens", "completion_tokens", "file_bytes", "sha256")


def read_manifest(output: OutputFiles) -> dict[str, Any] | None:
    """Read the manifest of a finished job, or return None if there is none."""
    try:
        manifest = json.loads(output.storage.read(output.own(MANIFEST)))
    except InputError:
        return None
    return dict(manifest)


def verify(output: str, endpoint_url: str | None = None) -> Verification:
    """Check that every input row is in `output` exactly once and that every file is unchanged.

    Reads all parts completely. Raises OutputError for a directory that is not the output of a job.
    """
    files = OutputFiles.at(output, Storage(endpoint_url))
    plan = read_plan(files)
    if plan is None:
        raise OutputError(f"{show_uri(files.directory)} is not the output of a job: it has no _tirazh/plan.json")
    problems = [f"{name} is not a file of this job" for name in files.foreign()]
    try:
        missing = {part.index for part in unfinished(plan, files)}
    except OutputError as error:
        return Verification(
            output=output,
            parts=0,
            parts_expected=len(plan.parts),
            rows=0,
            rows_expected=plan.rows,
            problems=(*problems, str(error)),
        )
    existing = [part for part in plan.parts if part.index not in missing]
    # Each thread holds a whole part file in memory.
    with ThreadPoolExecutor(_THREADS // 4) as threads:
        found = list(threads.map(lambda part: _verify_part(part, plan, files), existing))
    if missing:
        names = [part.name for part in plan.parts if part.index in missing]
        problems.append(f"{len(names)} of {len(plan.parts)} parts are missing: {_first_names(names)}")
    problems += [problem for _, problem in found if problem is not None]
    if not problems and not files.is_complete():
        problems.append("all parts exist, but _SUCCESS does not: the job stopped before its last step; run it again")
    return Verification(
        output=output,
        parts=len(existing),
        parts_expected=len(plan.parts),
        rows=sum(rows for rows, _ in found),
        rows_expected=plan.rows,
        problems=tuple(problems),
    )


def _verify_part(part: Part, plan: Plan, output: OutputFiles) -> tuple[int, str | None]:
    """Return the number of rows in one part file, and the problem with it, if there is one."""
    try:
        receipt = Receipt.from_json(output.storage.read(output.receipt(part.name)))
    except InputError:
        return 0, f"{part.name} has no receipt in _tirazh/receipts"
    except (ValueError, KeyError, TypeError):
        return 0, f"the receipt of {part.name} is damaged"
    data = output.storage.read(output.part(part.name))
    if len(data) != receipt.file_bytes or hashlib.sha256(data).hexdigest() != receipt.sha256:
        return 0, f"{part.name} is damaged or was changed: its SHA-256 does not match its receipt"
    try:
        metadata = pq.read_metadata(pa.BufferReader(data))
    except pa.ArrowException as error:
        return 0, f"{part.name} is not a Parquet file: {error}"
    footer = json.loads((metadata.metadata or {}).get(FOOTER_KEY, b"{}"))
    if footer.get("part") != part.index or footer.get("fingerprint") != plan.fingerprint:
        return 0, f"{part.name} contains the rows of another part (part {footer.get('part')})"
    if metadata.num_rows != part.rows:
        return metadata.num_rows, f"{part.name} has {metadata.num_rows} rows instead of {part.rows}"
    written = metadata.schema.to_arrow_schema()
    if written.names[: len(plan.schema)] != plan.schema.names:
        return metadata.num_rows, f"{part.name} does not have all columns of the input"
    return metadata.num_rows, None


def _first_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("tirazh", "ray", "pyarrow", "tokenizers")}
