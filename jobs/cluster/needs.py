"""What a job needs on the machines of a cluster: tirazh's requirements, and those of its addresses."""

from __future__ import annotations

import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from tirazh.pipeline.finetune.spec import FinetuneSpec
from tirazh.pipeline.spec import JobSpec, StepsSpec

_PROJECT = Path(__file__).resolve().parent.parent.parent / "pyproject.toml"
# Scheme of an address → the package with which fsspec reads it.
_OF_SCHEMES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}


def job_needs(spec: JobSpec | StepsSpec | FinetuneSpec) -> dict[str, Any]:
    """Return the Python of this process, such as "3.11", and package → versions, such as `{"pyarrow": ">=26"}`."""
    requirements = {each.name: str(each.specifier) for each in _requirements()}
    for scheme in _schemes(spec.to_dict()):
        if scheme in _OF_SCHEMES:
            requirements.setdefault(_OF_SCHEMES[scheme], "")
    if isinstance(spec, FinetuneSpec) and spec.lora_rank:
        requirements.setdefault("peft", "")  # of the extra `train`
    return {"python": f"{sys.version_info[0]}.{sys.version_info[1]}", "requirements": requirements}


def _requirements() -> list[Requirement]:
    """The requirements without those of extras: of the source tree that runs, else of the installed package."""
    try:
        if _PROJECT.is_file():
            texts = tomllib.loads(_PROJECT.read_text(encoding="utf-8"))["project"]["dependencies"]
        else:
            texts = metadata.requires("tirazh") or []
        found = [Requirement(text) for text in texts]
    except (metadata.PackageNotFoundError, InvalidRequirement, tomllib.TOMLDecodeError, KeyError):
        return []
    return [each for each in found if each.marker is None or each.marker.evaluate({"extra": ""})]


def _schemes(value: Any) -> set[str]:
    """The schemes of all addresses among the settings."""
    if isinstance(value, str):
        scheme, separator, _ = value.partition("://")
        return {scheme} if separator and scheme.isalnum() else set()
    if isinstance(value, dict):
        value = list(value.values())
    return set().union(*map(_schemes, value)) if isinstance(value, list | tuple) else set()
