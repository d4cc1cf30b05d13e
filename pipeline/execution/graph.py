"""The Ray Data graph: read → prompts → replicas → sink, a part a block all the way.

What keeps a part whole and by itself in Ray Data 2.60 (each has a test in tests/pipeline/execution/test_graph.py):
one read task a part; `override_num_blocks` equal to their number, or outputs are split; `batch_size=None` everywhere;
no limit on block size (`ray_session.data_settings`); and a CPU step between the read and the actor pool, which would
otherwise be fused with it, so that replicas would read files.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset

from tirazh.pipeline.execution.backpressure import limit_parts_under_way
from tirazh.pipeline.execution.infer import InferConfig, InferStep
from tirazh.pipeline.input.read import PartsDatasource

MAX_PARTS_IN_FLIGHT = 16
_WHOLE = {"batch_size": None, "batch_format": "pyarrow", "zero_copy_batch": True}
# Tasks of a step at once where they take no CPU that would limit them.
_MAX_UNCOUNTED_TASKS = 4
# Parts that may wait for the sink beyond one a replica, so that a slow write now and then idles nobody.
_MAX_WAITING = 4


def build_graph(
    source: PartsDatasource,
    *,
    prompts: Callable[[pa.Table], pa.Table],
    infer: InferConfig,
    replicas: tuple[int, int],
    in_flight: int,
    write: Callable[[pa.Table], pa.Table],
    step_cpus: int = 1,
) -> Dataset:
    """The graph, not yet running: iterating over it runs it and gives one row a part. Changes the current DataContext
    (`ray_session.data_settings` makes one)."""
    limit_parts_under_way(DataContext.get_current(), max_parts_under_way(replicas[1], in_flight))
    pool = ActorPoolStrategy(
        min_size=replicas[0],
        max_size=replicas[1],
        max_tasks_in_flight_per_actor=in_flight + 1,  # one waits at hand
        max_concurrent_calls_per_actor=in_flight,
    )
    step: dict[str, Any] = {"num_cpus": step_cpus, "concurrency": None if step_cpus else _MAX_UNCOUNTED_TASKS}
    return (
        ray.data.read_datasource(source, override_num_blocks=source.num_parts, **step)
        .map_batches(prompts, **_WHOLE, **step)
        .map_batches(
            InferStep,
            fn_constructor_args=(infer,),
            compute=pool,
            num_cpus=0,  # the ranks hold what a replica needs, in a placement group of their own
            **_WHOLE,
        )
        .map_batches(write, **_WHOLE, **step)
    )


def choose_in_flight(part_rows: Sequence[int], *, slots: int, samples: int, replicas: int) -> int:
    """How many parts a replica takes at once: enough for twice its slots, so that a part's tail never idles them, but
    no more than an even share, so that no replica is left with nothing."""
    mean_sequences = samples * sum(part_rows) / len(part_rows)
    wanted = 2 + round(2 * slots / mean_sequences)
    even_share = max(2, len(part_rows) // replicas)
    return min(wanted, even_share, MAX_PARTS_IN_FLIGHT)


def max_parts_under_way(replicas: int, in_flight: int) -> int:
    """Parts given to replicas and not yet written, at most: what is made again when the driver dies. Each replica
    works on `in_flight`, has one at hand and one that waits for the sink."""
    return replicas * (in_flight + 2) + _MAX_WAITING


def run_graph(graph: Dataset) -> Generator[dict[str, Any], None, None]:
    """Run it; yields what the sink says of every part, as soon as its file is there."""
    for batch in graph.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from batch.to_pylist()
