"""What a soak runs in: a folder, a tiny model, prompts, a cluster of two nodes, a small disk, an S3 server, a proxy."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.seaweedfs import SeaweedServer, find_weed
from tests.soak.cluster import TwoNodes
from tests.soak.proxy import Proxy
from tests.system.tiny_model import write_tiny_model

MAX_PARTS = 64
PART_ROWS = 8
DISK_BYTES = 6 * 2**20
BUCKET = "soak"


@dataclass(slots=True)
class World:
    """`undisturbed[n]`: the rows that a run of n ranks without any fault has written, by id."""

    folder: Path
    environment: dict[str, str]
    cluster: TwoNodes = field(default_factory=TwoNodes)
    server: SeaweedServer | None = None
    proxy: Proxy | None = None
    has_small_disk: bool = False
    undisturbed: dict[int, dict[str, dict[str, Any]]] = field(default_factory=dict)

    @property
    def model(self) -> str:
        return str(self.folder / "model")

    @property
    def source(self) -> str:
        return str(self.folder / "prompts.parquet")

    @property
    def disk(self) -> Path:
        return self.folder / "disk"

    @property
    def notes(self) -> Path:
        """Where `recorded.py` notes which rows its engine was given."""
        return self.folder / "begun"

    def close(self) -> None:
        self.cluster.stop()
        if self.server is not None:
            self.server.kill()
        if self.proxy is not None:
            self.proxy.close()
        if self.has_small_disk:
            subprocess.run(["umount", str(self.disk)], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


def build_world(folder: Path, *, seed: int) -> World:
    """Start everything in `folder`, which `World.close` removes. Ray's settings are in the environment already."""
    world = World(folder, dict(os.environ))
    world.notes.mkdir()
    world.disk.mkdir()
    write_tiny_model(folder / "model")
    write_prompts(Path(world.source), MAX_PARTS * PART_ROWS)
    world.has_small_disk = _mount(world.disk)
    weed = find_weed()
    if weed is not None:
        (folder / "weed").mkdir()
        world.server = SeaweedServer(weed, folder / "weed")
        world.server.start()
        world.server.make_bucket(BUCKET)
        world.proxy = Proxy(world.server.s3, seed=seed)
        os.environ.update(world.server.environment)  # workers have what their raylet had
    world.cluster.start()
    world.environment = dict(os.environ)
    return world


def write_prompts(path: Path, rows: int) -> None:
    """`row N: xxx` of different lengths; the number is how `recorded.py` knows a row again."""
    names = [f"row-{row:04d}" for row in range(rows)]
    prompts = [f"row {row}: {'x' * (row * 7 % 31)}" for row in range(rows)]
    pq.write_table(pa.table({"id": names, "prompt": prompts}), path, row_group_size=4 * PART_ROWS)


def _mount(folder: Path) -> bool:
    """A small disk of its own, where this user may mount one."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
