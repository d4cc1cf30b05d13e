"""A real, temporary S3 server for tests: one SeaweedFS process on free loopback ports."""

from __future__ import annotations

import ctypes
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import botocore.session
from botocore.client import BaseClient
from botocore.config import Config

ACCESS_KEY = "testkey"
SECRET_KEY = "testsecret"
PUBLIC_BUCKET = "public-news"  # may be read without credentials
START_TIMEOUT_S = 240  # the start of the server takes seconds of CPU, and the machine may be busy
GRPC_OFFSET = 10_000  # SeaweedFS opens a gRPC port at this offset from every port


def find_weed() -> str | None:
    """Return the path of the `weed` binary, beside this Python or on the PATH, or None."""
    beside = Path(sys.executable).parent / "weed"
    return str(beside) if beside.is_file() else shutil.which("weed")


class SeaweedServer:
    """A SeaweedFS server.

    Uploads do not create buckets, so a missing bucket is an error as on AWS.
    """

    def __init__(self, weed: str, directory: Path) -> None:
        self.weed = weed
        self.directory = directory
        self.master, self.volume, self.filer, self.s3 = _free_ports(4)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.s3}"

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables with which a subprocess can access the server."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self) -> None:
        """Start and wait for the status page: after the port opens, early requests still get status 500."""
        log = (self.directory / "weed.log").open("wb")
        self.process = subprocess.Popen(
            self._command(), stdout=log, stderr=subprocess.STDOUT, preexec_fn=_die_with_parent
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"SeaweedFS did not start; see {log.name}")
            time.sleep(0.1)

    def kill(self) -> None:
        """Send SIGKILL: a graceful stop takes up to half a minute, and the data is not needed."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def client(self, config: Config | None = None) -> BaseClient:
        """Return a botocore S3 client of this server."""
        return botocore.session.get_session().create_client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
            config=config,
        )

    def make_bucket(self, name: str) -> str:
        """Create a bucket and return its URI, `s3://name`."""
        self.client().create_bucket(Bucket=name)
        return f"s3://{name}"

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.endpoint_url}/status", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _command(self) -> list[str]:
        users = self.directory / "s3.json"
        users.write_text(json.dumps({"identities": [_identity(), _anonymous()]}))
        return [
            *(self.weed, "server", f"-dir={self.directory}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
            *(f"-master.port={self.master}", f"-volume.port={self.volume}", f"-filer.port={self.filer}"),
            *("-s3", f"-s3.port={self.s3}", f"-s3.config={users}", "-s3.autoCreateBucket=false"),
            *("-s3.port.iceberg=0", "-s3.port.lance=0"),
            # A restarted server elects itself as leader sooner; the default takes more than ten
            # seconds.
            *("-master.electionTimeout=1s", "-master.heartbeatInterval=200ms"),
            "-master.telemetry=false",  # on by default: it would report to the vendor
            # A bucket allocates seven volumes at once, which grow with their data, so a high limit
            # costs nothing.
            *("-volume.max=1000", "-master.volumeSizeLimitMB=64"),
        ]


def _identity() -> dict[str, object]:
    return {
        "name": "tests",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }


def _anonymous() -> dict[str, object]:
    """What the server allows without credentials: reading one bucket."""
    return {"name": "anonymous", "actions": [f"Read:{PUBLIC_BUCKET}", f"List:{PUBLIC_BUCKET}"]}


def _free_ports(count: int) -> list[int]:
    """Return ports that are free together with their gRPC ports."""
    found: list[int] = []
    while len(found) < count:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = 11_000 + probe.getsockname()[1] % 20_000
        if port not in found and _is_free(port) and _is_free(port + GRPC_OFFSET):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _die_with_parent() -> None:
    """Ask Linux to kill the server when pytest is killed."""
    set_death_signal = 1
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)
