"""The Kubernetes manifests in `deploy/`: their contents, the pods in them, and KubeRay's schemas."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.conftest import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
RAY_JOBS = ("rayjob", "raycronjob")
KUBERNETES_JOBS = ("cronjob", "model-copy")
Object = dict[str, Any]


def manifest(name: str) -> Object:
    loaded: Object = yaml.safe_load((DEPLOY / f"{name}.yaml").read_text(encoding="utf-8"))
    return loaded


def ray_job_spec(name: str) -> Object:
    """Return the spec of a RayJob, or of the RayJobs that a RayCronJob creates."""
    spec: Object = manifest(name)["spec"]
    return spec["jobTemplate"] if name == "raycronjob" else spec


def job_spec(name: str) -> Object:
    """Return the spec of a Job, or of the Jobs that a CronJob creates."""
    spec: Object = manifest(name)["spec"]
    return spec["jobTemplate"]["spec"] if name == "cronjob" else spec


def pods() -> Iterator[tuple[str, Object]]:
    """Yield the name and the spec of every pod."""
    for name in RAY_JOBS:
        cluster = ray_job_spec(name)["rayClusterSpec"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            yield f"{name} {group.get('groupName', 'head')}", group["template"]["spec"]
    for name in KUBERNETES_JOBS:
        yield name, job_spec(name)["template"]["spec"]


def kuberay_schema(shared: Path, plural: str) -> Object:
    """Return the JSON schema of one of KubeRay's kinds, which refuses every field that it does not name."""
    file = shared / f"data/kuberay/ray.io_{plural}.yaml.gz"
    if not file.is_file():
        pytest.skip(f"needs KubeRay's CRD, which is not in the repository: no file {file}")
    definition = yaml.load(gzip.decompress(file.read_bytes()), yaml.CSafeLoader)
    (version,) = [version for version in definition["spec"]["versions"] if version["name"] == "v1"]
    schema: Object = _strict(version["schema"]["openAPIV3Schema"])
    return schema


def _strict(schema: Any) -> Any:
    """Translate a schema of Kubernetes into JSON schema, without unknown fields."""
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {
        name: {key: _strict(value) for key, value in content.items()} if name == "properties" else _strict(content)
        for name, content in schema.items()
        if not name.startswith("x-kubernetes-") and name != "format"
    }
    if schema.get("x-kubernetes-int-or-string"):
        strict["type"] = ["integer", "string"]
    if "properties" in strict and not schema.get("x-kubernetes-preserve-unknown-fields"):
        strict.setdefault("additionalProperties", False)
    return strict


def problems(value: Any, schema: Object) -> list[str]:
    """Return one line for every place of `value` that the schema refuses."""
    found = jsonschema.Draft7Validator(schema).iter_errors(value)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in found]


def without_metadata(value: Object) -> Object:
    """The CRD describes `metadata` as any object."""
    return {name: part for name, part in value.items() if name != "metadata"}
