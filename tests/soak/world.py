"""The environment of a soak test: model, prompts, a cluster of two nodes, a small disk, an S3 server, a proxy."""

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
BROKEN_EVERY = 9
DISK_BYTES = 6 * 2**20
BUCKET = "soak"


@dataclass(slots=True)
class World:
    """`undisturbed[n]`: the rows that a run with n ranks and without faults has written, by id."""

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
    def broken_source(self) -> str:
        """Prompts like those of `source`, of which every `BROKEN_EVERY`-th is null; its rows have the same seeds."""
        return str(self.folder / "broken" / "prompts.parquet")

    @property
    def disk(self) -> Path:
        return self.folder / "disk"

    @property
    def notes(self) -> Path:
        """Directory of the notes that `recorded.py` makes about the rows of its engine."""
        return self.folder / "engine-notes"

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
    """Start everything in `folder`, which `World.close` removes.

    Expects Ray's settings in the environment.
    """
    world = World(folder, dict(os.environ))
    world.notes.mkdir()
    world.disk.mkdir()
    write_tiny_model(folder / "model")
    write_prompts(Path(world.source), MAX_PARTS * PART_ROWS)
    Path(world.broken_source).parent.mkdir()
    write_prompts(Path(world.broken_source), MAX_PARTS * PART_ROWS, broken_every=BROKEN_EVERY)
    world.has_small_disk = _mount(world.disk)
    weed = find_weed()
    if weed is not None:
        (folder / "weed").mkdir()
        world.server = SeaweedServer(weed, folder / "weed")
        world.server.start()
        world.server.make_bucket(BUCKET)
        world.proxy = Proxy(world.server.s3, seed=seed)
        os.environ.update(world.server.environment)  # workers inherit the environment of their raylet
    world.cluster.start()
    world.environment = dict(os.environ)
    return world


def write_prompts(path: Path, rows: int, *, broken_every: int = 0) -> None:
    """Write prompts `row N: xxx` of different lengths; `recorded.py` identifies a row by its number.

    With `broken_every`, the prompt of every so many rows is null, which makes an error of that row.
    """
    names = [f"row-{row:04d}" for row in range(rows)]
    prompts: list[str | None] = [f"row {row}: {'x' * (row * 7 % 31)}" for row in range(rows)]
    for row in range(0, rows, broken_every) if broken_every else ():
        prompts[row] = None
    pq.write_table(pa.table({"id": names, "prompt": prompts}), path, row_group_size=4 * PART_ROWS)


def _mount(folder: Path) -> bool:
    """Mount a small disk on `folder`. Returns False when this user may not."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
