"""The Kubernetes manifests: valid for the schemas of KubeRay and Kubernetes, and consistent."""

from __future__ import annotations

import copy
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import REPOSITORY
from tests.deploy.api_server import api_server
from tests.deploy.manifests import (
    DEPLOY,
    KUBERNETES_JOBS,
    RAY_JOBS,
    Object,
    job_spec,
    kuberay_schema,
    manifest,
    pods,
    problems,
    ray_job_spec,
    without_metadata,
)
from tests.seaweedfs import SeaweedServer
from tirazh.pipeline.storage.filesystem import Storage

NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
KUBERNETES = "1.32"
FILES = sorted(path.stem for path in DEPLOY.glob("*.yaml"))
PODS = [pytest.param(pod, id=name) for name, pod in pods()]


@pytest.mark.parametrize(("name", "kind"), [("rayjob", "RayJob"), ("raycronjob", "RayCronJob")])
def test_a_ray_job_is_valid_for_kuberays_schema(name: str, kind: str, shared_dir: Path) -> None:
    schema, found = kuberay_schema(shared_dir, f"{kind.lower()}s"), manifest(name)
    assert (found["apiVersion"], found["kind"]) == ("ray.io/v1", kind)
    assert problems(without_metadata(found), schema) == []
    unknown = without_metadata(found) | {"spec": found["spec"] | {"concurrencyPolicy": "Forbid"}}
    assert problems(unknown, schema) != []


@pytest.mark.parametrize("name", ["rayjob", "raycronjob"])
def test_the_pods_of_a_ray_job_are_valid_for_kubernetes_schema(name: str) -> None:
    cluster = ray_job_spec(name)["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        validate_strictly({"apiVersion": "v1", "kind": "PodTemplate", "template": group["template"]})


@pytest.mark.parametrize("name", [*KUBERNETES_JOBS, "model-volume"])
def test_a_manifest_is_valid_for_kubernetes_schema(name: str) -> None:
    found = manifest(name)
    validate_strictly(found)
    wrong = copy.deepcopy(found)
    wrong["spec"]["backofLimit"] = 3
    with pytest.raises(Exception, match="backofLimit"):
        validate_strictly(wrong)


def validate_strictly(value: Object) -> None:
    """Validate with the schema of Kubernetes itself. Unknown fields are refused."""
    validator = pytest.importorskip("kubernetes_validate", reason="needs the package kubernetes-validate")
    validator.validate(value, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", FILES)
def test_kubectl_accepts_a_manifest(name: str, shared_dir: Path, tmp_path: Path) -> None:
    """A real kubectl, offline: it asks a local server only which kinds there are."""
    if not shutil.which("kubectl"):
        pytest.skip("needs kubectl")
    command = ["kubectl", "apply", "--dry-run=client", "--validate=false", "-o", "yaml", "-f", f"{DEPLOY}/{name}.yaml"]
    with api_server() as url:
        environment = {**os.environ, "KUBECONFIG": str(tmp_path / "none"), "HOME": str(tmp_path)}
        done = subprocess.run([*command, "--server", url], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["spec"] == manifest(name)["spec"]


@pytest.mark.parametrize("name", RAY_JOBS)
def test_the_ray_of_a_job_requires_a_token_and_its_head_takes_no_work(name: str) -> None:
    cluster = ray_job_spec(name)["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


@pytest.mark.parametrize("name", RAY_JOBS)
def test_a_ray_job_ends_by_itself_and_removes_its_cluster(name: str) -> None:
    spec = ray_job_spec(name)
    assert 0 < spec["preRunningDeadlineSeconds"] < spec["activeDeadlineSeconds"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["backoffLimit"] == 0  # its entry point repeats failures: KubeRay cannot tell exit codes apart


def test_the_cronjob_keeps_the_rules_that_no_schema_has() -> None:
    cron = manifest("cronjob")
    assert len(cron["metadata"]["name"]) <= 52  # Kubernetes appends a time of 11 characters
    for name in ("cronjob", "raycronjob"):
        assert re.fullmatch(r"(\S+ ){4}\S+", manifest(name)["spec"]["schedule"])
    assert cron["spec"]["concurrencyPolicy"] == "Forbid"


@pytest.mark.parametrize("name", KUBERNETES_JOBS)
def test_a_job_keeps_the_rules_that_no_schema_has(name: str) -> None:
    spec = job_spec(name)
    assert spec["activeDeadlineSeconds"] > 0
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # a pod failure policy requires it
    for rule in spec.get("podFailurePolicy", {}).get("rules", []):
        assert ("onExitCodes" in rule) != ("onPodConditions" in rule)
        if "onExitCodes" in rule:
            assert rule["onExitCodes"]["containerName"] in {container["name"] for container in pod["containers"]}
            assert 0 not in rule["onExitCodes"]["values"]


def test_a_wrong_request_and_a_failed_condition_are_not_repeated_but_a_failed_job_is() -> None:
    spec = job_spec("cronjob")
    (rule,) = [rule for rule in spec["podFailurePolicy"]["rules"] if rule["action"] == "FailJob"]
    assert rule["onExitCodes"]["values"] == [2, 3]
    assert spec["backoffLimit"] > 0


def test_the_token_of_the_cronjob_is_in_the_secret_that_kuberay_makes() -> None:
    """KubeRay names the secret and the service after the cluster, here `ray`."""
    (container,) = job_spec("cronjob")["template"]["spec"]["containers"]
    variables = {variable["name"]: variable for variable in container["env"]}
    assert variables["RAY_AUTH_MODE"]["value"] == "token"
    assert variables["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"] == {"name": "ray", "key": "auth_token"}
    assert "http://ray-head-svc:8265" in container["args"]


@pytest.mark.parametrize("pod", PODS)
def test_a_pods_mounts_have_volumes_and_its_names_are_valid(pod: dict[str, Any]) -> None:
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in pod["containers"]:
        assert NAME.fullmatch(container["name"])
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        assert container["image"] == "registry.example.com/tirazh:0.1.0"
    claims = {volume.get("persistentVolumeClaim", {}).get("claimName") for volume in pod["volumes"]} - {None}
    assert claims <= {manifest("model-volume")["metadata"]["name"]}


@pytest.mark.parametrize("pod", PODS)
def test_a_pod_runs_without_privileges_and_within_limits(pod: dict[str, Any]) -> None:
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("pod", PODS)
def test_a_secret_comes_from_a_secret(pod: dict[str, Any]) -> None:
    for container in pod["containers"]:
        secret = [each for each in container.get("env", []) if re.search("TOKEN|KEY|SECRET|PASSWORD", each["name"])]
        assert all("secretKeyRef" in each["valueFrom"] for each in secret)


def test_a_model_is_on_a_shared_disk_or_in_the_cache_of_a_node() -> None:
    for name, pod in pods():
        for container in pod["containers"]:
            mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
            if name.startswith("rayjob"):
                assert "/models" in mounts
            if name.startswith("raycronjob"):
                assert {"name": "TIRAZH_CACHE", "value": "/cache"} in container["env"]
                assert "/cache" in mounts


def test_one_version_of_ray_is_named_everywhere() -> None:
    constraints = (REPOSITORY / "constraints.txt").read_text()
    (version,) = re.findall(r"^ray==(\S+)$", constraints, flags=re.MULTILINE)
    for name in RAY_JOBS:
        assert ray_job_spec(name)["rayClusterSpec"]["rayVersion"] == version
    assert f"ray.__version__ == '{version}'" in (DEPLOY / "Dockerfile").read_text()


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
