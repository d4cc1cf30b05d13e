"""The specs of jobs over rows: frozen dataclasses that flags, job files and Python calls are turned into.

A spec is validated when it is made. Settings marked `identity` define the output rows. The others
control where and how fast the job runs, and may change when it is resumed.
"""

from __future__ import annotations

from tirazh.pipeline.settings import flag_name, is_required
from tirazh.pipeline.shared_settings import EMBEDDED_MODEL, Truncate
from tirazh.pipeline.spec.classify import ClassifySpec
from tirazh.pipeline.spec.embed import EmbedSpec
from tirazh.pipeline.spec.filter import FilterSpec
from tirazh.pipeline.spec.generate import GenerateSpec
from tirazh.pipeline.spec.job import ADDRESSES, JobSpec, parse_replicas
from tirazh.pipeline.spec.score import ScoreSpec
from tirazh.pipeline.spec.steps import Accepted, Step, StepsSpec

__all__ = [
    "ADDRESSES",
    "EMBEDDED_MODEL",
    "SPECS",
    "Accepted",
    "ClassifySpec",
    "EmbedSpec",
    "FilterSpec",
    "GenerateSpec",
    "JobSpec",
    "ScoreSpec",
    "Step",
    "StepsSpec",
    "Truncate",
    "flag_name",
    "is_required",
    "parse_replicas",
]

SPECS: dict[str, type[JobSpec]] = {
    "classify": ClassifySpec,
    "generate": GenerateSpec,
    "score": ScoreSpec,
    "embed": EmbedSpec,
}
