"""Resolves everything that a spec only names: storage, URIs, the prompt template, the examples and the model.

It is done once for a run, on the driver; the plan carries the result. Needs neither Ray nor torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from tirazh.model.checkpoints.directory import ModelSummary, describe
from tirazh.pipeline.prompts.source import PromptSource, prompt_source
from tirazh.pipeline.spec import ClassifySpec, JobSpec
from tirazh.pipeline.storage.filesystem import Storage, full_uri


@dataclass(frozen=True, kw_only=True)
class ResolvedJob:
    """`inputs` and `output` are absolute paths and URIs; `examples` is the content of the few-shot
    Parquet file, if there is one.
    """

    storage: Storage
    inputs: tuple[str, ...]
    output: str
    source: PromptSource
    examples: bytes | None
    model: ModelSummary


def resolve_job(spec: JobSpec) -> ResolvedJob:
    """Resolve the spec's names. Raises RequestError, InputError or CheckpointError."""
    storage = Storage(spec.endpoint_url)
    examples = spec.examples if isinstance(spec, ClassifySpec) else None
    return ResolvedJob(
        storage=storage,
        inputs=tuple(map(full_uri, spec.input)),
        output=full_uri(spec.output),
        source=prompt_source(spec),
        model=describe(spec.model, spec.model_settings),
        examples=storage.read(full_uri(examples)) if examples is not None else None,
    )
