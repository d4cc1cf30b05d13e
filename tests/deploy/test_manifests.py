"""The Kubernetes manifests and the image: valid for KubeRay's schema, for Kubernetes' rules, and consistent."""

from __future__ import annotations

import gzip
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.conftest import REPOSITORY
from tests.seaweedfs import SeaweedServer
from tirazh.pipeline.storage.filesystem import Storage

DEPLOY = REPOSITORY / "deploy"
NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


def manifest(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / f"{name}.yaml").read_text(encoding="utf-8"))
    return loaded


@pytest.fixture(scope="module")
def rayjob_schema(shared_dir: Path) -> dict[str, Any]:
    """KubeRay's schema of a RayJob, which refuses every field that it does not name, as the API server does."""
    file = shared_dir / "data/kuberay/ray.io_rayjobs.yaml.gz"
    if not file.is_file():
        pytest.skip(f"needs KubeRay's CRD, which is not in the repository: no file {file}")
    definition = yaml.load(gzip.decompress(file.read_bytes()), yaml.CSafeLoader)
    (version,) = [version for version in definition["spec"]["versions"] if version["name"] == "v1"]
    schema: dict[str, Any] = _strict(version["schema"]["openAPIV3Schema"])
    return schema


@pytest.fixture(scope="module")
def pod_template_schema(rayjob_schema: dict[str, Any]) -> dict[str, Any]:
    """Kubernetes' schema of a pod template, which is part of KubeRay's."""
    template: dict[str, Any] = rayjob_schema["properties"]["spec"]["properties"]["submitterPodTemplate"]
    return template


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


def problems(value: Any, schema: dict[str, Any]) -> list[str]:
    found = jsonschema.Draft7Validator(schema).iter_errors(value)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in found]


def without_metadata(value: dict[str, Any]) -> dict[str, Any]:
    """The CRD describes `metadata` as any object."""
    return {name: part for name, part in value.items() if name != "metadata"}


def test_the_rayjob_is_valid_for_kuberays_schema(rayjob_schema: dict[str, Any]) -> None:
    job = manifest("rayjob")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert problems(without_metadata(job), rayjob_schema) == []
    wrong = without_metadata(job) | {"spec": job["spec"] | {"podFailurePolicy": {}}}
    assert problems(wrong, rayjob_schema) != []


@pytest.mark.parametrize("name", ["cronjob", "model-copy"])
def test_the_pods_of_a_job_are_valid_for_kubernetes_schema(name: str, pod_template_schema: dict[str, Any]) -> None:
    assert problems(job_spec(name)["template"], pod_template_schema) == []


def job_spec(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = manifest(name)["spec"]
    return spec["jobTemplate"]["spec"] if name == "cronjob" else spec


def test_the_ray_of_a_rayjob_requires_a_token_and_its_head_takes_no_work() -> None:
    cluster = manifest("rayjob")["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_the_cronjob_keeps_the_rules_of_kubernetes() -> None:
    cron = manifest("cronjob")
    assert (cron["apiVersion"], cron["kind"]) == ("batch/v1", "CronJob")
    known = "schedule timeZone concurrencyPolicy startingDeadlineSeconds suspend successfulJobsHistoryLimit "
    assert set(cron["spec"]) <= {*known.split(), "failedJobsHistoryLimit", "jobTemplate"}
    assert re.fullmatch(r"(\S+ ){4}\S+", cron["spec"]["schedule"])
    assert cron["spec"]["concurrencyPolicy"] in ("Allow", "Forbid", "Replace")
    assert len(cron["metadata"]["name"]) <= 52  # Kubernetes appends a time of 11 characters


@pytest.mark.parametrize("name", ["cronjob", "model-copy"])
def test_a_job_keeps_the_rules_of_kubernetes(name: str) -> None:
    spec = job_spec(name)
    known = (
        "backoffLimit activeDeadlineSeconds podFailurePolicy template ttlSecondsAfterFinished completions parallelism"
    )
    assert set(spec) <= set(known.split())
    assert spec["activeDeadlineSeconds"] > 0
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # a pod failure policy requires it
    for rule in spec.get("podFailurePolicy", {}).get("rules", []):
        assert rule["action"] in ("FailJob", "FailIndex", "Ignore", "Count")
        assert ("onExitCodes" in rule) != ("onPodConditions" in rule)
        if "onExitCodes" in rule:
            assert rule["onExitCodes"]["containerName"] in {container["name"] for container in pod["containers"]}
            assert rule["onExitCodes"]["operator"] in ("In", "NotIn")
            assert 0 not in rule["onExitCodes"]["values"]
        for condition in rule.get("onPodConditions", []):
            assert condition == {"type": "DisruptionTarget", "status": "True"}


def test_a_wrong_request_is_not_retried() -> None:
    (rule,) = [rule for rule in job_spec("cronjob")["podFailurePolicy"]["rules"] if rule["action"] == "FailJob"]
    assert rule["onExitCodes"]["values"] == [2]


@pytest.mark.parametrize(
    ("codes", "runs", "ends_with"),
    [([0], 1, 0), ([2, 0], 1, 2), ([1, 0], 2, 0), ([1, 1, 1, 0], 3, 1), ([143, 0], 2, 0)],
)
def test_the_entrypoint_of_the_rayjob_repeats_failures_but_no_wrong_request(
    codes: list[int], runs: int, ends_with: int, tmp_path: Path
) -> None:
    """Runs the real entrypoint, with a `python` that ends with these codes and a `sleep` that does not wait."""
    program = f"#!/bin/sh\necho run >> {tmp_path}/runs\nset -- {' '.join(map(str, codes))}\n"
    program += f"shift $(($(wc -l < {tmp_path}/runs) - 1))\nexit $1\n"
    for name, text in (("python", program), ("sleep", "#!/bin/sh\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    entrypoint = manifest("rayjob")["spec"]["entrypoint"]
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["/bin/bash", "-c", entrypoint], env=environment, check=False)
    assert (done.returncode, len((tmp_path / "runs").read_text().splitlines())) == (ends_with, runs)


def test_the_token_of_the_cronjob_is_in_the_secret_that_kuberay_makes() -> None:
    """KubeRay names the secret and the service after the cluster, here `ray`."""
    (container,) = job_spec("cronjob")["template"]["spec"]["containers"]
    variables = {variable["name"]: variable for variable in container["env"]}
    assert variables["RAY_AUTH_MODE"]["value"] == "token"
    assert variables["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"] == {"name": "ray", "key": "auth_token"}
    assert "http://ray-head-svc:8265" in container["command"]


def _pods() -> Iterator[tuple[str, dict[str, Any]]]:
    cluster = manifest("rayjob")["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield f"rayjob {group.get('groupName', 'head')}", group["template"]["spec"]
    for name in ("cronjob", "model-copy"):
        yield name, job_spec(name)["template"]["spec"]


@pytest.mark.parametrize(("name", "pod"), list(_pods()), ids=lambda value: value if isinstance(value, str) else "")
def test_a_pods_mounts_have_volumes_and_its_names_are_valid(name: str, pod: dict[str, Any]) -> None:
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in pod["containers"]:
        assert NAME.fullmatch(container["name"])
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        assert container["image"] == "registry.example.com/tirazh:0.1.0"
    claims = {volume.get("persistentVolumeClaim", {}).get("claimName") for volume in pod["volumes"]} - {None}
    assert claims <= {manifest("model-volume")["metadata"]["name"]}


def test_one_version_of_ray_is_named_everywhere() -> None:
    constraints = (REPOSITORY / "constraints.txt").read_text()
    (version,) = re.findall(r"^ray==(\S+)$", constraints, flags=re.MULTILINE)
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    assert manifest("rayjob")["spec"]["rayClusterSpec"]["rayVersion"] == version
    assert f"FROM rayproject/ray:{version}-py311-gpu" in dockerfile
    assert f"ray.__version__ == '{version}'" in dockerfile


def test_an_image_gets_the_package_and_neither_environments_nor_data() -> None:
    """Everything is excluded first, and the files that the build of the wheel reads are included again."""
    lines = [line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "*"
    included = {line.removeprefix("!") for line in lines if line.startswith("!")}
    linked = {path.name for path in (REPOSITORY / "tirazh").iterdir() if path.is_symlink()}
    assert included == {"tirazh", *linked, "pyproject.toml", "README.md", "LICENSE", "constraints.txt"}
    assert all((REPOSITORY / name).exists() for name in included)
    assert "**/.*" in lines  # .env files and the like, also inside the package


@pytest.mark.s3
def test_the_copy_of_a_model_appears_whole_under_its_name(s3_server: SeaweedServer, tmp_path: Path) -> None:
    """Runs the program of deploy/model-copy.yaml."""
    source, storage = f"{s3_server.make_bucket('weights')}/rugpt3xl", Storage(s3_server.endpoint_url)
    storage.write(f"{source}/config.json", b"{}")
    storage.write(f"{source}/layers/0.bin", b"weights")
    (container,) = job_spec("model-copy")["template"]["spec"]["containers"]
    _, flag, program, *_ = container["command"]
    target = tmp_path / "models" / "rugpt3xl"
    (target.parent / "rugpt3xl.partial").mkdir(parents=True)
    (target.parent / "rugpt3xl.partial" / "old.bin").touch()
    environment = {**os.environ, **s3_server.environment, "AWS_ENDPOINT_URL": s3_server.endpoint_url}
    for _ in range(2):
        subprocess.run([sys.executable, flag, program, source, str(target)], env=environment, check=True, timeout=120)
    files = sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file())
    assert files == ["config.json", "layers/0.bin"]
    assert [path.name for path in target.parent.iterdir()] == ["rugpt3xl"]
