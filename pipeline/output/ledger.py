"""The end of a job: receipts, manifest and `_SUCCESS`; and the verification of an output.

Everything is derived from the files themselves. The plan lists the parts that must exist, and a part's
receipt describes its file.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tirazh.errors import InputError, JobError, OutputError
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.output.budget import ErrorBudget
from tirazh.pipeline.output.guarded import GuardedOutput
from tirazh.pipeline.output.lease import Lease
from tirazh.pipeline.output.names import FAILURE, MANIFEST, RECEIPTS, REPORT, SUCCESS, OutputFiles, receipt_name
from tirazh.pipeline.output.plan_file import read_plan
from tirazh.pipeline.output.quality import quality
from tirazh.pipeline.output.receipt import FOOTER_KEY, Receipt, ReceiptSettings
from tirazh.pipeline.output.report import render
from tirazh.pipeline.output.state import survey
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.spec import ClassifySpec, JobSpec
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage, keep_trying

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


def receipt_settings(spec: JobSpec) -> ReceiptSettings:
    """What the receipts of the job depend on besides its part files."""
    return ReceiptSettings(prefix=spec.prefix, gold_column=spec.gold_column if isinstance(spec, ClassifySpec) else None)


def unfinished(plan: Plan, output: OutputFiles) -> list[Part]:
    """The parts without a file. Takes one listing and opens no file."""
    existing = output.parts()
    return [part for part in plan.parts if part.name not in existing]


def remaining_parts(plan: Plan, output: OutputFiles, spec: JobSpec) -> list[Part]:
    """The parts that a run of `spec` would make: those without a file, and those whose file is damaged."""
    return survey(plan, output, receipt_settings(spec)).remaining


def read_receipts(plan: Plan, output: OutputFiles, parts: Iterable[Part]) -> list[Receipt]:
    """Read the receipts of `parts`, in their order.

    Raises JobError for one that is missing, damaged or that of another plan.
    """

    def read(part: Part) -> Receipt:
        uri = output.receipt(part.name)
        try:
            receipt = Receipt.from_json(keep_trying(lambda: output.storage.read(uri)))
            if receipt.plan_id != plan.id:
                raise ValueError("it is that of another job")
        except (InputError, ValueError, KeyError, TypeError) as error:
            reason = "is missing" if isinstance(error, InputError) else f"is damaged ({type(error).__name__}: {error})"
            raise JobError(
                f"{show_uri(uri)} {reason}; run the same command again, which makes it from its part"
            ) from error
        return receipt

    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(read, parts))


def finish(
    plan: Plan,
    output: OutputFiles,
    spec: JobSpec,
    facts: dict[str, Any],
    *,
    lease: Lease | None = None,
    published_at: str | None = None,
) -> dict[str, Any]:
    """Write the report, the manifest and `_SUCCESS`, in this order, and return the manifest.

    All parts must exist. Files that other plans left are removed first. `lease` is that of the job's output,
    None only if no other run can see it. `published_at` is the directory that the manifest names, if it is not
    `output` itself. Raises JobError if the size of a part file differs from its receipt, and for more rows with
    errors than --max-error-rate allows.
    """
    receipts = read_receipts(plan, output, plan.parts)
    # The sizes of all parts come from one listing. `verify` checks the content.
    sizes = keep_trying(output.parts)
    for part, receipt in zip(plan.parts, receipts, strict=True):
        size = sizes.get(part.name, "no")
        if size != receipt.file_bytes:
            raise JobError(
                f"{show_uri(output.part(part.name))} was changed while the job ran (it has {size} bytes, not the "
                f"{receipt.file_bytes} of its receipt); run the same command again, which makes it again"
            )
    manifest = build_manifest(plan, receipts, spec, facts, output=published_at or output.directory)
    ErrorBudget(spec.max_error_rate, plan.rows).check(errors=manifest["errors"], answered=manifest["rows"])
    guarded = GuardedOutput(output, lease.token if lease else None)
    if lease is not None:
        lease.settle()
    _remove_leftovers(plan, guarded)
    guarded.write(output.own(REPORT), render(manifest).encode())
    guarded.write(output.own(MANIFEST), json.dumps(manifest, ensure_ascii=False, indent=1).encode())
    # `_SUCCESS` must be the last write: readers take an output with it as complete. It is there already if
    # only the manifest was made again, and that write was then the last one.
    if keep_trying(output.completed_plan) != plan.id:
        guarded.write(output.part(SUCCESS), plan.id.encode())
    return manifest


def _remove_leftovers(plan: Plan, output: GuardedOutput) -> None:
    """Remove the parts and receipts of other plans, the failure of an earlier run, and temporary files."""
    files = output.files
    parts = {part.name for part in plan.parts}
    receipts = {receipt_name(name) for name in parts}
    left = [files.part(name) for name in keep_trying(files.parts) if name not in parts]
    left += [files.own(RECEIPTS, name) for name in keep_trying(files.receipts) if name not in receipts]
    left += keep_trying(files.temporary_files)
    if FAILURE in keep_trying(lambda: files.storage.names(files.own())):
        left.append(files.own(FAILURE))
    for uri in left:
        output.remove(uri)


def facts_of_last_run(plan: Plan, output: OutputFiles) -> dict[str, Any]:
    """Facts for the manifest of a run that makes no part: those of the last run that made some, if it has a manifest.

    The parts of that run are still the ones that the manifest describes.
    """
    manifest = read_manifest(output) or {}
    nothing = {"seconds": 0.0, "resumed_parts": len(plan.parts)}
    if manifest.get("plan_id") != plan.id or not isinstance(manifest.get("versions"), dict):
        return nothing
    names = ("seconds", "resumed_parts", "tokens_per_s", "replicas", "replica_deaths", "versions")
    return nothing | {name: manifest[name] for name in names if name in manifest}


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
        "plan_id": plan.id,
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
    """Read the manifest of a finished job, or return None if there is none or it is damaged."""
    try:
        manifest = json.loads(output.storage.read(output.own(MANIFEST)))
    except (InputError, ValueError, RecursionError):
        return None
    return manifest if isinstance(manifest, dict) else None


def finished_manifest(plan: Plan, output: OutputFiles, settings: ReceiptSettings) -> dict[str, Any] | None:
    """The manifest of an output in which nothing is left to do, else None.

    Nothing is left if `_SUCCESS` is there, and the part files have the names and sizes in the manifest, which
    is that of the plan and of the gold column. Opens only the manifest.
    """
    if not output.is_complete():
        return None
    manifest = read_manifest(output)
    try:
        if manifest is None or manifest["plan_id"] != plan.id:
            return None
        sizes = {part["name"]: part["file_bytes"] for part in manifest["parts"]}
        is_scored = manifest["spec"].get("gold_column") == settings.gold_column
        has_counts = all(isinstance(manifest[name], int) for name in ("rows", "errors"))
    except (KeyError, TypeError, AttributeError):
        return None
    names = {part.name for part in plan.parts}
    is_same = (
        sizes.keys() == names
        and sizes == output.parts()
        and {receipt_name(name) for name in names} <= output.receipts()
    )
    has_report = REPORT in output.storage.names(output.own())
    return manifest if is_scored and has_counts and is_same and has_report else None


def verify(output: str, endpoint_url: str | None = None) -> Verification:
    """Check that every input row is in `output` exactly once and that every file is unchanged.

    Reads all parts completely. Raises OutputError for a directory that is not the output of a job.
    """
    files = OutputFiles.at(output, Storage(endpoint_url))
    plan = read_plan(files)
    if plan is None:
        raise OutputError(f"{show_uri(files.directory)} is not the output of a job: it has no _tirazh/plan.json")
    problems = [f"{name} is not a file of this job" for name in files.foreign()]
    names = {part.name for part in plan.parts}
    problems += [f"{name} belongs to another job" for name in sorted(files.parts()) if name not in names]
    missing = {part.index for part in unfinished(plan, files)}
    existing = [part for part in plan.parts if part.index not in missing]
    # Each thread holds a whole part file in memory.
    with ThreadPoolExecutor(_THREADS // 4) as threads:
        found = list(threads.map(lambda part: _verify_part(part, plan, files), existing))
    if missing:
        lacking = [part.name for part in plan.parts if part.index in missing]
        problems.append(f"{len(lacking)} of {len(plan.parts)} parts are missing: {_first_names(lacking)}")
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
    if footer.get("part") != part.index or footer.get("plan_id") != plan.id:
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
