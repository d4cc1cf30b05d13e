"""The Ray Data source of a job: exactly one read task and one block per part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from tirazh.pipeline.input.parts import Part
from tirazh.pipeline.input.read import read_part
from tirazh.pipeline.storage.filesystem import Storage

# Larger crossings are put into Ray's object store once, instead of into every read task.
_MAX_SENT_BYTES = 256 << 10


class PartsDatasource(Datasource):  # type: ignore[misc]
    """The Ray Data source of the parts that remain to be made.

    `columns` are those of the whole input, None for those of each file. `repetitions` are those of the rows of each
    part, by its index; 0 for parts that it lacks.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        storage: Storage,
        columns: pa.Schema | None = None,
        repetitions: Mapping[int, NDArray[np.int32]] | None = None,
    ) -> None:
        super().__init__()
        self._repetitions = repetitions or {}
        self._parts = parts
        self._storage = storage
        self._columns = columns

    @property
    def num_parts(self) -> int:
        """The number of parts, and so of read tasks."""
        return len(self._parts)

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """Return one task per part, regardless of `parallelism`."""
        crossing = self._parts[0].crossing if self._parts else None
        is_large = crossing is not None and crossing.nbytes > _MAX_SENT_BYTES
        shared = ray.put(crossing) if is_large else None
        return [self._read_task(part, shared) for part in self._parts]

    def _read_task(self, part: Part, crossing: ray.ObjectRef | None) -> ReadTask:
        metadata = BlockMetadata(num_rows=part.rows, size_bytes=None, input_files=None, exec_stats=None)
        repetitions = self._repetitions.get(part.index)
        sent = part if crossing is None else replace(part, crossing=None)
        return ReadTask(partial(_read_block, sent, self._storage, self._columns, repetitions, crossing), metadata)


def _read_block(
    part: Part,
    storage: Storage,
    columns: pa.Schema | None,
    repetitions: NDArray[np.int32] | None,
    crossing: ray.ObjectRef | None = None,
) -> Iterable[pa.Table]:
    """The rows of a part. `crossing` refers to that of a part that was sent without it."""
    if crossing is not None:
        part = replace(part, crossing=ray.get(crossing))
    # One table: Ray Data would concatenate several, which takes twice the memory.
    yield read_part(part, storage, columns, repetitions)
