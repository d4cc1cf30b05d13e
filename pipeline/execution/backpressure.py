"""How many parts are under way at once: given to the replicas and not yet written. A driver that dies loses no more.

Ray Data 2.60 bounds what waits for the sink by the object store's use alone; parts are small beside it, so replicas
that are faster than the sink would run ahead of it by hundreds of parts.
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


class PartsUnderWay(BackpressurePolicy):
    """Gives the actor pool no further part while `limit` of its parts have not left the step behind it."""

    def __init__(self, context: DataContext, topology: Topology, resources: ResourceManager, *, limit: int) -> None:
        super().__init__(context, topology, resources)
        self._limit = limit

    @property
    def name(self) -> str:
        return "parts under way"

    def can_add_input(self, op: PhysicalOperator) -> bool:
        if not isinstance(op, ActorPoolMapOperator):
            return True
        sink = op.output_dependencies[0]
        return bool(op.metrics.num_tasks_submitted - sink.metrics.num_tasks_finished < self._limit)


def limit_parts_under_way(context: DataContext, limit: int) -> None:
    """Bound the parts under way in every graph that is made with `context` from now on. A step must make one block of
    one block, as those of `tirazh.pipeline.execution.graph` do."""
    policies = [*ENABLED_BACKPRESSURE_POLICIES, partial(PartsUnderWay, limit=limit)]
    context.set_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, policies)
