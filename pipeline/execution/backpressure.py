"""Limits the parts in flight: given to the replicas but not yet written.

A driver that dies loses no more than those. Ray Data 2.60 limits the blocks that wait for the sink
only by the memory of the object store. Parts are small compared with it, so replicas that are
faster than the sink would be hundreds of parts ahead.
"""

from __future__ import annotations

from functools import partial

from ray.data import DataContext
from ray.data._internal.execution.backpressure_policy import (
    ENABLED_BACKPRESSURE_POLICIES,
    ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
)
from ray.data._internal.execution.backpressure_policy.backpressure_policy import BackpressurePolicy
from ray.data._internal.execution.interfaces import PhysicalOperator
from ray.data._internal.execution.operators.actor_pool_map_operator import ActorPoolMapOperator
from ray.data._internal.execution.resource_manager import ResourceManager
from ray.data._internal.execution.streaming_executor_state import Topology


class MaxPartsInFlight(BackpressurePolicy):
    """Gives the actor pool no new part while `limit` of its parts have not passed the sink."""

    def __init__(self, context: DataContext, topology: Topology, resources: ResourceManager, *, limit: int) -> None:
        super().__init__(context, topology, resources)
        self._limit = limit

    @property
    def name(self) -> str:
        return "parts in flight"

    def can_add_input(self, op: PhysicalOperator) -> bool:
        if not isinstance(op, ActorPoolMapOperator):
            return True
        # Blocks between the two counters are being inferred, wait for the sink or are being
        # written.
        sink = op.output_dependencies[0]
        return bool(op.metrics.num_tasks_submitted - sink.metrics.num_tasks_finished < self._limit)


def limit_parts_in_flight(context: DataContext, limit: int) -> None:
    """Set the limit in `context`; it applies to graphs that are built afterwards.

    Every step must turn one block into one block, as those of `tirazh.pipeline.execution.graph` do.
    """
    policies = [*ENABLED_BACKPRESSURE_POLICIES, partial(MaxPartsInFlight, limit=limit)]
    context.set_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, policies)
