"""Resolves everything that a spec only names: storage, URIs, the prompt template, the examples and the model.

It is done once for a run, on the driver; the plan carries the result. Needs neither Ray nor torch.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa

from tirazh.errors import RequestError
from tirazh.model.architectures import longest_exact_sequence
from tirazh.model.checkpoints.directory import ModelSummary, describe
from tirazh.pipeline.classification.calibration.load import FittedCalibration, load_fitted
from tirazh.pipeline.classification.calibration.score_settings import score_fingerprint
from tirazh.pipeline.constraints.settings import schema_text
from tirazh.pipeline.crossing.crossing import Crossing
from tirazh.pipeline.crossing.load import load_crossing
from tirazh.pipeline.model_cache.remote_model import RemoteModel, find_model
from tirazh.pipeline.prompts.source import PromptSource, prompt_source
from tirazh.pipeline.spec import ClassifySpec, GenerateSpec, JobSpec
from tirazh.pipeline.storage.filesystem import Storage, full_uri

_DEFAULT_SEQ_LENGTH = 2048


@dataclass(frozen=True, kw_only=True)
class ResolvedJob:
    """`inputs` and `output` are absolute paths and URIs; `model_directory` is where the model is on this machine, and
    `remote_model` where it comes from if that is an object store; `examples` is the content of the few-shot
    Parquet file, if there is one; `seq_length` is in tokens. `crossing` has the rows of `vary`, and `sample` those of
    `calibrate: batch`, once the input is planned. `calibration` is the content of a
    calibration file.

    `identity` is the identity of the job: that of the spec with every default filled in. Specs that
    give the same rows of the same input have the same identity, however they are written.
    """

    storage: Storage
    inputs: tuple[str, ...]
    output: str
    source: PromptSource
    examples: bytes | None
    model: ModelSummary
    model_directory: str
    seq_length: int
    identity: dict[str, Any]
    crossing: Crossing | None = None
    sample: pa.Table | None = None
    calibration: FittedCalibration | None = None
    remote_model: RemoteModel | None = None

    @property
    def tokenizer_name(self) -> str:
        """The directory of the tokenizer, or what stands for it on other machines (`local_tokenizer_dir`)."""
        directory = self.model.tokenizer_dir or ""
        is_of_model = self.remote_model is not None and directory == self.model_directory
        return self.remote_model.text() if self.remote_model is not None and is_of_model else directory

    @property
    def examples_sha256(self) -> str | None:
        """The SHA-256 of the few-shot examples."""
        return hashlib.sha256(self.examples).hexdigest() if self.examples is not None else None


def resolve_job(spec: JobSpec) -> ResolvedJob:
    """Resolve the spec's names. Raises RequestError, InputError or CheckpointError."""
    storage = Storage(spec.endpoint_url)
    examples = spec.examples if isinstance(spec, ClassifySpec | GenerateSpec) else None
    directory, remote = find_model(spec.model, storage)
    source, model = prompt_source(spec), describe(directory, spec.model_settings)
    seq_length = _sequence_length(spec, model)
    crossing = _crossing(spec, storage)
    job = ResolvedJob(
        storage=storage,
        inputs=tuple(map(full_uri, spec.input)),
        output=full_uri(spec.output),
        source=source,
        model=model,
        model_directory=directory,
        remote_model=remote,
        examples=storage.read(full_uri(examples)) if examples is not None else None,
        seq_length=seq_length,
        identity=_identity(spec, source, model, directory, seq_length, crossing),
        crossing=crossing,
    )
    return _with_calibration(job, spec) if isinstance(spec, ClassifySpec) else job


def _with_calibration(job: ResolvedJob, spec: ClassifySpec) -> ResolvedJob:
    """Load the calibration file, if the job names one, and check that it was made for the job's scores."""
    if spec.calibration_file is None:
        return job
    scores = score_fingerprint(
        job.identity, model_fingerprint=job.model.fingerprint, examples_sha256=job.examples_sha256
    )
    fitted = load_fitted(
        spec.calibration_file, job.storage, scores, target_error=spec.target_error, none_label=spec.none_label
    )
    return replace(job, identity=job.identity | {"calibrate": fitted.digest}, calibration=fitted)


def _crossing(spec: JobSpec, storage: Storage) -> Crossing | None:
    """The rows of --vary. With --accepted every cell has as many as there may be attempts."""
    if not isinstance(spec, GenerateSpec) or spec.vary is None:
        return None
    attempts = None if spec.accepted is None else spec.accepted * spec.max_attempts
    return load_crossing(
        spec.vary,
        rows=spec.rows,
        per_cell=spec.per_cell or attempts,
        seed=spec.seed,
        limit=spec.limit,
        storage=storage,
    )


def _sequence_length(spec: JobSpec, model: ModelSummary) -> int:
    """The sequence length in tokens. Raises RequestError if the model's context length is smaller."""
    if model.positions is not None and (spec.seq_length or 0) > model.positions:
        exact = longest_exact_sequence(model.foreign.values) if model.foreign is not None else None
        why = "" if exact is None else f" that run exactly: {exact.reason}"
        raise RequestError(f"--seq-length {spec.seq_length} is more than the model's {model.positions} positions{why}")
    return spec.seq_length or model.positions or _DEFAULT_SEQ_LENGTH


def _identity(
    spec: JobSpec, source: PromptSource, model: ModelSummary, directory: str, seq_length: int, crossing: Crossing | None
) -> dict[str, Any]:
    """The identity of the spec with the defaults that come from the kind of job or from the model.

    The dtype is not in it: it is decided when the job starts, and the plan has it.
    """
    values: dict[str, Any] = spec.identity() | {
        "seq_length": seq_length,
        "template": None if source.is_default else source.template.source,
        "truncate": spec.chosen_truncate,
        "tokenizer": _other_tokenizer(spec, directory),
    }
    if "questions" in values:
        # Only the report reads gold columns.
        values["questions"] = {
            name: {key: value for key, value in question.items() if key != "gold_column"}
            for name, question in values["questions"].items()
        }
    if isinstance(spec, GenerateSpec):
        # With a template it names only the text that may be truncated.
        values["prompt_column"] = source.text_column
        # The values themselves: a list is the same in a file, under another name and in the job file.
        values["vary"] = crossing.identity() if crossing is not None else None
        if spec.samples == 1:  # a single sample is a row in both
            values["samples_as"] = "rows"
        # As text, because the order of its properties is that of the completions.
        values["schema"] = None if spec.schema is None else schema_text(spec.schema)
    if model.config is not None:
        config = model.config
        values |= {
            "sparse_mode": config.sparse_mode,
            "num_attention_heads": config.num_attention_heads,
            "fix_sparsity_layout": config.layout_groups,
            "deepspeed_config": asdict(config.sparse_pattern),
            "preset": None,  # it sets some of those above
        }
    del values["dtype"]
    return values


def _other_tokenizer(spec: JobSpec, model_directory: str) -> str | None:
    """The tokenizer's directory, or None if it is that of the model.

    The path of the embedded model is never in an identity: it differs between machines.
    """
    if spec.tokenizer is None:
        return None
    chosen = full_uri(spec.tokenizer)
    return None if chosen == os.path.abspath(model_directory) else chosen
