"""Secrets are planted in the environment and in URIs; then everything that a job wrote and printed is searched."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import REPOSITORY
from tests.seaweedfs import SeaweedServer
from tests.system.command import run_tirazh
from tirazh.errors import RequestError
from tirazh.jobs.cli import main
from tirazh.jobs.cluster.submit import job_of_spec, submit_to
from tirazh.jobs.cluster.working_dir import write_working_dir
from tirazh.jobs.job_files.job_file import spec_from_file
from tirazh.jobs.settings import build_spec

PLANTED = "planted-a7f3e19c-secret"
KEY64 = base64.b64encode(f"{PLANTED}-as-a-key".encode()).decode()
ENVIRONMENT = {
    "AWS_SECRET_ACCESS_KEY": PLANTED,
    "AWS_SESSION_TOKEN": f"{PLANTED}-session",
    "AZURE_STORAGE_ACCOUNT_KEY": KEY64,
    "AZURE_STORAGE_CONNECTION_STRING": f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={KEY64}",
    "AZURE_STORAGE_SAS_TOKEN": f"sv=2024&sig={PLANTED}",
    "HF_TOKEN": PLANTED,
    "MY_API_KEY": PLANTED,
    "PGPASSWORD": f"{PLANTED}-of-a-database",
    "GITHUB_PAT": f"{PLANTED}-of-github",
    "KAGGLE_KEY": f"{PLANTED}-of-kaggle",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": PLANTED * 2,
}
URI = f"s3://me:{PLANTED}@bucket/news"
SIGNED = f"https://bucket.s3.amazonaws.com/x.parquet?X-Amz-Signature={PLANTED}"


def holding(*places: Path) -> list[str]:
    """Return the files under `places` that hold a planted secret."""
    needles = (PLANTED.encode(), KEY64.encode())
    files = [file for place in places for file in place.rglob("*") if file.is_file() and not file.is_symlink()]
    return [str(file) for file in files if any(needle in file.read_bytes() for needle in needles)]


@pytest.fixture
def ray_dir() -> Iterator[Path]:
    """A directory for Ray's session, with a name short enough for its sockets."""
    with tempfile.TemporaryDirectory(prefix="tz-", dir="/tmp", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


@pytest.mark.slow
@pytest.mark.ray
def test_a_job_neither_writes_nor_prints_secrets(tiny_model: str, tmp_path: Path, ray_dir: Path) -> None:
    """Searches the plan, manifest, receipts, report, logs, Ray's session directory with its logs, stdout and stderr."""
    pq.write_table(pa.table({"prompt": ["один", "два", None]}), tmp_path / "in.parquet")
    done = run_tirazh(
        *("generate", "--input", tmp_path / "in.parquet", "--output", tmp_path / "out", "--model", tiny_model),
        *("--max-new-tokens", "2", "--max-error-rate", "0.9", "--dtype", "float32", "-vv"),
        env={**ENVIRONMENT, "RAY_TMPDIR": str(ray_dir), "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert PLANTED not in done.stdout + done.stderr
    assert (tmp_path / "out/_tirazh/manifest.json").is_file()
    assert list(ray_dir.rglob("*.log")), "the directory that is searched holds no logs of Ray"
    assert holding(tmp_path, ray_dir) == []


@pytest.mark.s3
def test_the_message_about_refused_storage_holds_no_key(
    s3_server: SeaweedServer, tiny_model: str, tmp_path: Path
) -> None:
    bucket = s3_server.make_bucket("refused")
    done = run_tirazh(
        *("generate", "--input", f"{bucket}/x.parquet", "--output", tmp_path / "out", "--model", tiny_model),
        *("--endpoint-url", s3_server.endpoint_url, "-vv"),
        env={**ENVIRONMENT, "AWS_ACCESS_KEY_ID": "testkey", "TMPDIR": str(tmp_path)},
    )
    assert done.returncode in (1, 2)
    assert done.stderr.strip().splitlines()[-1].startswith("tirazh: ")
    assert PLANTED not in done.stdout + done.stderr
    assert holding(tmp_path) == []


@pytest.mark.parametrize(
    ("flag", "uri"),
    [
        *(("--input", URI), ("--output", URI), ("--model", URI), ("--input", SIGNED)),
        ("--output", f"az://c/x?sig={PLANTED}"),
        ("--endpoint-url", f"http://me:{PLANTED}@minio:9000"),
        ("--endpoint-url", f"https://{PLANTED}@minio:9000"),
        ("--endpoint-url", f"https://account.blob.core.windows.net;AccountKey={PLANTED}"),
        ("--endpoint-url", f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={PLANTED}"),
        ("--address", f"ray://me:{PLANTED}@head:10001"),
    ],
)
def test_a_uri_with_a_secret_is_refused_without_repeating_it(
    flag: str, uri: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One of them in a process of its own, as users run it."""
    flags = {"--input": "in.parquet", "--output": str(tmp_path / "out")} | {flag: uri}
    arguments = ["generate", *(word for pair in flags.items() for word in pair), "-vv"]
    if (flag, uri) == ("--input", URI):
        done = run_tirazh(*arguments)
        code, said = done.returncode, done.stdout + done.stderr
    else:
        code = main(arguments)
        said = "".join(capfd.readouterr())
    assert code == 2
    assert said.startswith("tirazh: ")
    assert PLANTED not in said
    assert list(tmp_path.iterdir()) == []


def test_the_traceback_of_an_internal_error_holds_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys, tirazh.jobs.cli as cli\n"
        "def fail(options):\n"
        f"    raise KeyError('{PLANTED} and https://me:{PLANTED}@host/?sig={PLANTED}')\n"
        "cli.commands.COMMANDS['verify'] = fail\n"
        "sys.exit(cli.main(['verify', sys.argv[1]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=REPOSITORY,
        env={**os.environ, "MY_API_KEY": PLANTED, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "internal error" in done.stderr) == (1, True)
    assert list(tmp_path.rglob("internal-error.log"))
    assert PLANTED not in done.stderr
    assert holding(tmp_path) == []


def test_the_log_of_library_output_holds_no_secrets(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom tirazh.jobs.library_output import redirect_library_output\n"
        "with redirect_library_output(sys.argv[1]):\n"
        f"    os.write(2, b'connecting with {PLANTED} and ?sig={PLANTED}&x=1')\n"
    )
    (tmp_path / "_tirazh").mkdir()
    env = {**os.environ, "MY_API_KEY": PLANTED}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=REPOSITORY, env=env, check=True)
    (log,) = (tmp_path / "_tirazh/logs").iterdir()
    assert "connecting with" in log.read_text()
    assert holding(tmp_path) == []


def test_a_submitted_job_holds_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches the metadata, entrypoint, environment and working directory that Ray's job server receives."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    sent: dict[str, Any] = {}

    class Client:
        def get_address(self) -> str:
            return "http://head:8265"

        def list_jobs(self) -> list[Any]:
            return []

        def submit_job(self, **job: Any) -> str:
            sent.update(job)
            return str(job["submission_id"])

    spec = build_spec("generate", {"input": "s3://b/in", "output": "s3://b/out", "model": "s3://m/x"})
    job = job_of_spec(spec, notify={"url": f"https://hooks.example/{KEY64}"})
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    submit_to(Client(), job)  # type: ignore[arg-type]
    assert PLANTED not in json.dumps(sent, default=str)
    assert KEY64 not in json.dumps(sent, default=str)
    write_working_dir(spec, tmp_path)
    assert holding(tmp_path) == []


def test_a_job_file_with_a_secret_is_refused(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(f"kind: generate\ninput: {URI}\noutput: out\n")
    with pytest.raises(RequestError, match="contains a password") as caught:
        spec_from_file(tmp_path / "job.yaml")
    assert PLANTED not in str(caught.value)


STATE = """
import os, ray
from tirazh.jobs.settings import build_spec
from tirazh.pipeline.execution.ray_session import ray_session
from ray._raylet import AuthenticationMode, get_authentication_mode
with ray_session(build_spec("generate", {"input": "a", "output": "b"})):
    print(get_authentication_mode() == AuthenticationMode.TOKEN, flush=True)
    address = ray.get_runtime_context().gcs_address
    import subprocess, sys
    code = "import ray; ray.init(address=%r, logging_level='ERROR')" % address
    other_user = {**os.environ, "RAY_AUTH_TOKEN": "the-token-of-another-user", "RAY_AUTH_TOKEN_PATH": ""}
    for env in (os.environ, other_user):
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
        print(done.returncode == 0, flush=True)
"""


@pytest.mark.slow
@pytest.mark.ray
def test_a_local_ray_refuses_other_users_and_keeps_its_token_private(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {"HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", STATE], cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.stdout.split() == ["True", "True", "False"], done.stderr
    token = tmp_path / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(token.parent.stat().st_mode) & 0o077 == 0
    assert token.read_text() not in done.stdout + done.stderr
