"""The end of a job: receipts, manifest and `_SUCCESS`.

Everything is derived from the files themselves. The plan lists the parts that must exist, and a part's
receipt describes its file.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tirazh.errors import InputError, JobError
from tirazh.pipeline.classification.answer_counts import columns_of_answers
from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.openai_batch.responses import answers_batch, response_lines
from tirazh.pipeline.output.budget import ErrorBudget
from tirazh.pipeline.output.forecast_outcome import judge_forecast
from tirazh.pipeline.output.guarded import GuardedOutput
from tirazh.pipeline.output.leases.lease import Lease
from tirazh.pipeline.output.names import (
    FAILURE,
    MANIFEST,
    RECEIPTS,
    REPORT,
    RESPONSES,
    SUCCESS,
    OutputFiles,
    receipt_name,
)
from tirazh.pipeline.output.quality import quality
from tirazh.pipeline.output.receipt import Receipt, ReceiptSettings
from tirazh.pipeline.output.report import pages_of
from tirazh.pipeline.output.seal import read_sealed_json, to_sealed_json
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.spec import JobSpec
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import keep_trying
from tirazh.pipeline.trained_task import compare_task

# Receipts are small, so reading them from an object store is bound by latency, not by bandwidth.
_THREADS = 16


def receipt_settings(spec: JobSpec) -> ReceiptSettings:
    """What the receipts of the job depend on besides its part files."""
    return ReceiptSettings.of(spec.to_dict())


def unfinished(plan: Plan, output: OutputFiles) -> list[Part]:
    """The parts without a file. Takes one listing and opens no file."""
    existing = output.parts()
    return [part for part in plan.parts if part.name not in existing]


def read_receipts(plan: Plan, output: OutputFiles, parts: Iterable[Part]) -> list[Receipt]:
    """Read the receipts of `parts`, in their order.

    Raises JobError for one that is missing, damaged or that of another plan.
    """

    def read(part: Part) -> Receipt:
        uri = output.receipt(part.name)
        try:
            receipt = Receipt.from_json(keep_trying(lambda: output.storage.read(uri)))
            if receipt.plan_id != part.plan_id:
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
    check_budget: bool = True,
) -> dict[str, Any]:
    """Write the report, the manifest and `_SUCCESS`, in this order, and return the manifest.

    All parts must exist. Files that other plans left are removed first. `lease` is that of the job's output,
    None only if no other run can see it. `published_at` is the directory that the manifest names, if it is not
    `output` itself. `check_budget` is False for new answers to failed rows. Raises JobError if the size of a part
    file differs from its receipt, and for more rows with errors than --max-error-rate allows.
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
    if check_budget:
        budget = ErrorBudget(spec.max_error_rate, plan.output_rows)
        budget.check(errors=manifest["errors"], answered=manifest["rows"])
    guarded = GuardedOutput(output, lease.token if lease else None)
    if lease is not None:
        lease.settle()
    _remove_leftovers(plan, guarded)
    for name, page in pages_of(manifest, output).items():
        guarded.write(output.own(name), page)
    if answers_batch([planned.file.uri for planned in plan.files], plan.schema.names):
        asked = columns_of_answers(spec.to_dict() | {"prefix": ""}) if spec.kind == "classify" else ()
        answers = {each.question: each.by_field for each in asked}
        lines = response_lines(
            _rows(plan, output), plan_id=plan.id, model=spec.model, prefix=spec.prefix, answers=answers
        )
        guarded.write(output.own(RESPONSES), b"".join(lines))
        manifest["responses"] = f"{manifest['output']}/_tirazh/{RESPONSES}"
    guarded.write(output.own(MANIFEST), to_sealed_json(manifest))
    # `_SUCCESS` must be the last write: readers take an output with it as complete. It is there already if
    # only the manifest was made again, and that write was then the last one.
    if keep_trying(output.completed_plan) != plan.id:
        guarded.write(output.part(SUCCESS), plan.id.encode())
    return manifest


def _rows(plan: Plan, output: OutputFiles) -> Iterator[dict[str, Any]]:
    """The rows of an output whose input is small."""
    for part in plan.parts:
        data = keep_trying(partial(output.storage.read, output.part(part.name)))
        yield from pq.read_table(pa.BufferReader(data)).to_pylist()


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
    times = ("seconds", "start_s", "seconds_wall", "begin", "end", "forecast")
    names = (*times, "resumed_parts", "tokens_per_s", "replicas", "replica_deaths", "timeline", "versions")
    return nothing | {name: manifest[name] for name in names if name in manifest}


def build_manifest(
    plan: Plan, receipts: Sequence[Receipt], spec: JobSpec, facts: dict[str, Any], *, output: str
) -> dict[str, Any]:
    """Collect everything about a finished job.

    `facts` are those of the last run: seconds, replicas, library versions on the replicas. `output`
    is the URI of the output directory.
    """
    described = describe_parts(plan, receipts)
    if "forecast" in facts:
        tokens = sum(receipt.prompt_tokens + receipt.completion_tokens for receipt in receipts)
        facts = facts | {"forecast": judge_forecast(facts["forecast"], tokens=tokens)}
    task = compare_task(spec)
    return {
        "kind": spec.kind,
        "output": show_uri(output),
        **({"model_task": task} if task is not None else {}),
        **described,
        **facts,
        "versions": {"python": platform.python_version(), **_versions(), **facts.get("versions", {})},
        "spec": spec.to_dict(),  # contains no secrets: a spec refuses them
    }


# What `--dtype int8` means (`model/layers/int8_linear.py`).
INT8 = (
    "linear layers multiply 8-bit integers, 128 inputs with a scale of their own for each output of the weight and for "
    "each row; embeddings, LayerNorm, attention and its cache are not rounded to 8 bits"
)


def describe_parts(plan: Plan, receipts: Sequence[Receipt]) -> dict[str, Any]:
    """The values of the manifest that follow from the plan and the receipts of all its parts."""
    return {
        "rows": sum(receipt.rows for receipt in receipts),
        "errors": sum(receipt.errors for receipt in receipts),
        "prompt_tokens": sum(receipt.prompt_tokens for receipt in receipts),
        "completion_tokens": sum(receipt.completion_tokens for receipt in receipts),
        "estimated_tokens": plan.estimated_tokens,
        "unified_columns": list(plan.unified),
        "passed_over": list(plan.passed_over),
        "num_parts": len(receipts),
        "input_rows": plan.rows,
        "rows_per_input_row": plan.rows_per_input_row,
        **quality(receipts),
        "dtype": plan.dtype,
        **({"quantization": INT8} if plan.dtype == "int8" else {}),
        "plan_id": plan.id,
        **_generations(plan),
        "fingerprint": plan.fingerprint,
        "model_fingerprint": plan.model_fingerprint,
        "parts": [
            {"name": part.name, **_ranges(part)}
            | {name: value for name, value in asdict(receipt).items() if name in _PART_FACTS}
            for part, receipt in zip(plan.parts, receipts, strict=True)
        ],
    }


def _generations(plan: Plan) -> dict[str, Any]:
    """Of an output that was added to: how often its parts were made, and the rows that were left out by their keys."""
    if plan.placed is None:
        return {}
    return {"generations": len({part.plan_id for part in plan.parts}), "left_out_rows": plan.left_out_rows}


def _ranges(part: Part) -> dict[str, Any]:
    """Where the rows of a part are in the input; of a part of several ranges all of them."""
    found = [
        {"input": show_uri(each.file.uri), "start": each.start, "stop": each.stop}
        | ({} if each.left_out is None else {"left_out": each.left_out.count})
        for each in part.ranges
    ]
    return found[0] if len(found) == 1 else {"ranges": found}


_PART_FACTS = ("rows", "errors", "prompt_tokens", "completion_tokens", "file_bytes", "sha256", "input_version")


def read_manifest(output: OutputFiles) -> dict[str, Any] | None:
    """Read the manifest of a finished job, or return None if there is none or it is damaged."""
    try:
        return read_sealed_json(output.storage.read(output.own(MANIFEST)))
    except (InputError, ValueError):
        return None


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
        versions = {part["name"]: part["input_version"] for part in manifest["parts"]}
        is_scored = ReceiptSettings.of(manifest["spec"]).gold_columns == settings.gold_columns
        has_counts = all(isinstance(manifest[name], int) for name in ("rows", "errors"))
    except (KeyError, TypeError, AttributeError):
        return None
    names = {part.name for part in plan.parts}
    # The parts of rewritten files have been compared with their rows (`changed_input.continue_plan`).
    if plan.stored_id is None and versions != {part.name: part.input_version for part in plan.parts}:
        return None
    is_same = (
        sizes.keys() == names
        and sizes == output.parts()
        and {receipt_name(name) for name in names} <= output.receipts()
    )
    has_report = REPORT in output.storage.names(output.own())
    return manifest if is_scored and has_counts and is_same and has_report else None


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("tirazh", "ray", "pyarrow", "tokenizers")}
