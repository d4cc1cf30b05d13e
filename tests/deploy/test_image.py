"""deploy/Dockerfile: what it says, and the image that a real builder makes of it, without a registry."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.deploy.manifests import DEPLOY

DOCKERFILE = DEPLOY / "Dockerfile"
DEBIAN = "http://deb.debian.org/debian"
RELEASE = "bookworm"
# What the Dockerfile's base image has beside a bare Debian.
PYTHON = "python3,python3-venv,python3-dev,ca-certificates"


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile as (name, arguments), with continued lines joined."""
    lines = [line for line in DOCKERFILE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(line.split()[0], " ".join(line.split()[1:])) for line in joined.splitlines() if line]


def last_stage() -> list[tuple[str, str]]:
    start = max(index for index, (name, _) in enumerate(instructions()) if name == "FROM")
    return instructions()[start:]


def test_the_image_has_two_stages_and_a_base_that_can_be_named_by_its_digest() -> None:
    assert [arguments for name, arguments in instructions() if name == "FROM"] == ["${BASE} AS build", "${BASE}"]
    assert instructions()[0] == ("ARG", "BASE=python:3.11-slim-bookworm")
    assert "@sha256:" in DOCKERFILE.read_text(encoding="utf-8")  # the comment says how


def test_the_last_stage_has_no_sources_and_no_caches() -> None:
    assert [arguments for name, arguments in last_stage() if name == "COPY"] == ["--from=build /opt/tirazh /opt/tirazh"]
    for name, arguments in instructions():
        if name == "RUN" and "pip install" in arguments:
            assert "--no-cache-dir" in arguments
        if name == "RUN" and "apt-get install" in arguments:
            assert "--no-install-recommends" in arguments
            assert "rm -rf /var/lib/apt/lists/*" in arguments


def test_the_user_is_a_number_other_than_root() -> None:
    """With a name, Kubernetes could not check `runAsNonRoot`."""
    (user,) = [arguments for name, arguments in last_stage() if name == "USER"]
    assert int(user) > 0
    pods_group = re.findall(r"fsGroup: (\d+)", (DEPLOY / "rayjob.yaml").read_text(encoding="utf-8"))
    assert set(pods_group) == {user}


def test_the_label_has_the_version_of_the_package() -> None:
    (version,) = re.findall(r'^version = "(.*)"$', (REPOSITORY / "pyproject.toml").read_text(), flags=re.MULTILINE)
    (labels,) = [arguments for name, arguments in last_stage() if name == "LABEL"]
    assert f'org.opencontainers.image.version="{version}"' in labels
    assert all(f"tirazh:{version}" in path.read_text() for path in DEPLOY.glob("*job.yaml"))


def test_an_image_gets_the_package_and_neither_environments_nor_data() -> None:
    """Everything is excluded first, and the files that the build of the wheel reads are included again."""
    lines = [line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "*"
    included = {line.removeprefix("!") for line in lines if line.startswith("!")}
    linked = {path.name for path in (REPOSITORY / "tirazh").iterdir() if path.is_symlink()}
    assert included == {"tirazh", *linked, "pyproject.toml", "README.md", "LICENSE", "constraints.txt"}
    assert all((REPOSITORY / name).exists() for name in included)
    assert "**/.*" in lines  # .env files and the like, also inside the package


@dataclass(frozen=True)
class Builder:
    """buildah with a storage of its own: no daemon, no user namespaces, no registry."""

    storage: Path

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        places = ("--root", f"{self.storage}/root", "--runroot", f"{self.storage}/run", "--storage-driver", "vfs")
        done = subprocess.run(["buildah", *places, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"buildah {' '.join(arguments)}: {done.stderr[-3000:]}"
        return done

    def run(self, container: str, *command: str) -> str:
        """Run a command in a container, as its user and in its working directory. Returns what it prints."""
        return self("run", "--isolation", "chroot", container, "--", *command).stdout


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    if os.geteuid() != 0:
        pytest.skip("needs root, to build an image without a daemon")
    for program in ("buildah", "debootstrap"):
        if not shutil.which(program):
            pytest.skip(f"needs {program}: apt-get install {program}")
    storage = tmp_path_factory.mktemp("image")
    yield Builder(storage)
    shutil.rmtree(storage, ignore_errors=True)


@pytest.fixture(scope="module")
def base(builder: Builder) -> str:
    """An image with Debian and its Python, made from Debian's packages: no registry is asked."""
    system = builder.storage / "debian"
    command = ["debootstrap", "--variant=minbase", f"--include={PYTHON}", RELEASE, str(system), DEBIAN]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs Debian's packages: {done.stdout.splitlines()[-1:]}")
    container = builder("from", "scratch").stdout.strip()
    builder("add", "--quiet", container, str(system), "/")
    builder("commit", "--quiet", "--rm", container, "localhost/base")
    shutil.rmtree(system)
    return "localhost/base"


def pip_files() -> list[Path]:
    """Return what pip needs of this machine: its configuration, certificates, and directories that it names."""
    listed = subprocess.run(["pip", "config", "debug"], capture_output=True, text=True, check=False).stdout
    found = [Path(name) for name in re.findall(r"(/\S+), exists: True", listed)]
    named = [Path(name) for name in re.findall(r"(?:file://|\s|')(/[^\s']+)", listed)]
    places = {path.parent if path.name in ("pip.conf", "simple", "constraints.txt") else path for path in named + found}
    return sorted({Path("/etc/ssl/certs"), *(path for path in places if path.is_dir() and path != Path("/etc"))})


@pytest.fixture(scope="module")
def container(builder: Builder, base: str) -> str:
    """The image of deploy/Dockerfile, built step by step as it is written, and a container of it."""
    volumes = [word for path in pip_files() for word in ("--volume", f"{path}:{path}:ro")]
    place = ("--file", str(DOCKERFILE), "--tag", "localhost/tirazh", str(REPOSITORY))
    builder("build", "--isolation", "chroot", "--format", "docker", "--build-arg", f"BASE={base}", *volumes, *place)
    return builder("from", "--pull-never", "localhost/tirazh").stdout.strip()


@pytest.mark.timeout(3600)
@pytest.mark.slow
def test_the_image_is_built_and_runs_the_demo_as_its_user(builder: Builder, container: str) -> None:
    assert builder.run(container, "tirazh", "--version").startswith("tirazh 0.1.0")
    found = builder.run(container, "sh", "-c", "id -u; pwd; for name in ray gcc wget bash; do command -v $name; done")
    user, home, ray, *programs = found.split()
    assert (user, home, ray) == ("1000", "/home/ray", "/opt/tirazh/bin/ray")
    assert [Path(name).name for name in programs] == ["gcc", "wget", "bash"]  # in /bin or /usr/bin, by the shell
    shown = builder.run(container, "tirazh", "demo")
    assert "Accuracy: " in shown
    manifest = builder.run(container, "cat", "demo-output/labels/_tirazh/manifest.json")
    assert '"rows": 60' in manifest
    assert builder.run(container, "sh", "-c", "ls -A /source 2>/dev/null || true") == ""
