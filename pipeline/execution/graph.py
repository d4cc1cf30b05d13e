"""The Ray Data graph: read → prompts → replicas → sink. Each part is one block in every step.

Ray Data 2.60 splits or merges blocks unless all of the following conditions hold
(tests/pipeline/execution/test_graph.py has a test for each): one read task per part;
`override_num_blocks` equal to the number of parts; `batch_size=None` in all steps; no limit on the
block size (`data_settings`); a CPU step between the read and the actor pool. Without
that step Ray Data fuses both, and the replicas read the files.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, Dataset

from tirazh.pipeline.execution.data_settings import building
from tirazh.pipeline.execution.infer import InferConfig, InferStep
from tirazh.pipeline.execution.run_resources import StepCpus
from tirazh.pipeline.input.datasource import PartsDatasource

MAX_IN_FLIGHT_PER_REPLICA = 16
_WHOLE = {"batch_size": None, "batch_format": "pyarrow", "zero_copy_batch": True}
# Parts that may wait for the sink besides one per replica, so that an occasional slow write leaves
# no replica idle.
_MAX_WAITING = 4
_NO_CPUS = StepCpus()


def build_graph(
    source: PartsDatasource,
    *,
    prompts: Callable[[pa.Table], pa.Table],
    infer: InferConfig,
    replicas: tuple[int, int],
    in_flight: int,
    write: Callable[[pa.Table], pa.Table],
    steps: StepCpus = _NO_CPUS,
) -> Dataset:
    """Build the graph; `run_graph` executes it.

    `replicas` are their minimum and maximum number, `in_flight` the parts that one replica processes at
    once, `steps` the CPUs of the other steps. The graph takes the settings of `data_settings`.
    """
    pool = ActorPoolStrategy(
        min_size=replicas[0],
        max_size=replicas[1],
        max_tasks_in_flight_per_actor=in_flight + 1,  # one waits in the actor's queue
        max_concurrent_calls_per_actor=in_flight,
    )
    step: dict[str, Any] = {"num_cpus": steps.num_cpus, "concurrency": min(steps.concurrency, source.num_parts)}
    with building():
        return (
            ray.data.read_datasource(source, override_num_blocks=source.num_parts, **step)
            .map_batches(prompts, **_WHOLE, **step)
            .map_batches(
                InferStep,
                fn_constructor_args=(infer,),
                compute=pool,
                num_cpus=0,  # the ranks reserve a replica's resources in a placement group
                **_WHOLE,
            )
            .map_batches(write, **_WHOLE, **step)
        )


def choose_in_flight(part_rows: Sequence[int], *, slots: int, samples: int, replicas: int) -> int:
    """Choose how many parts a replica processes at once.

    The parts have sequences for twice the replica's slots, so that no slot is idle at the end of a
    part, but they are no more than an equal share of all parts, so that every replica gets work.
    """
    mean_sequences = samples * sum(part_rows) / len(part_rows)
    wanted = 2 + round(2 * slots / mean_sequences)
    even_share = max(2, len(part_rows) // replicas)
    return min(wanted, even_share, MAX_IN_FLIGHT_PER_REPLICA)


def max_parts_in_flight(replicas: int, in_flight: int) -> int:
    """The maximum number of parts given to replicas but not yet written; those are repeated if the driver dies.

    Each replica processes `in_flight` parts, has one in its queue and one that waits for the sink.
    """
    return replicas * (in_flight + 2) + _MAX_WAITING


def run_graph(graph: Dataset) -> Generator[dict[str, Any], None, None]:
    """Execute the graph. Yields the sink's row about every part as soon as its file is written."""
    for batch in graph.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from batch.to_pylist()
