"""Checks that every machine of a cluster reaches the output, the input and the model of a job.

The driver writes a small file into the output. Each machine must find it there, with the same
content: a directory of the same name on another disk has another one, or none.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tirazh.errors import InputError, RequestError, TirazhError
from tirazh.pipeline.execution.cluster.packages import machine_name
from tirazh.pipeline.execution.ray_session import is_own_session
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage, is_remote

logger = logging.getLogger(__name__)

_ANSWER_TIMEOUT_S = 30.0
_MAX_INPUT_FILES = 100
_EMBEDDED = "embedded"
# The probes that this process has already checked.
_checked: set[str] = set()

Step = Callable[[pa.Table], pa.Table]


@dataclass(frozen=True, slots=True)
class NodeProbe:
    """The probe file `uri` and its content, and paths that must exist. Sent to other machines.

    `inputs` are URIs of files, `model` is a directory or a name that needs no directory. With `is_written` a machine
    must also be able to write into the output. With `needs_disk` the output cannot be in an object store.
    """

    storage: Storage
    output: str
    uri: str
    content: str
    inputs: tuple[str, ...] = ()
    model: str = _EMBEDDED
    is_written: bool = False
    needs_disk: bool = False

    def write(self) -> None:
        """Write the probe file; the driver does it once."""
        self.storage.write(self.uri, self.content.encode())

    def remove(self) -> None:
        """Remove the probe file."""
        self.storage.remove(self.uri)

    def check_output(self) -> None:
        """Raise RequestError if this machine does not see the driver's output directory."""
        if self.content in _checked:
            return
        try:
            found = self.storage.read(self.uri).decode(errors="replace")
        except InputError:  # there is no such file here
            found = ""
        if found != self.content:
            store = "" if self.needs_disk else ", or in an object store"
            raise RequestError(
                f"{_machine()} does not see the files that the driver writes to "
                f"{show_uri(self.output)}: the output must be on a disk that all machines of the cluster share{store}"
            )
        _checked.add(self.content)

    def problem(self) -> str | None:
        """Return a sentence about what this machine does not reach; None if it reaches everything."""
        machine = _machine()
        try:
            self.check_output()
        except RequestError as error:
            return str(error)
        except TirazhError as error:  # no credentials, or no connection to the storage
            return f"{machine} cannot read the output: {error}"
        return self._unwritable(machine) or self._unreadable(machine)

    def _unwritable(self, machine: str) -> str | None:
        if not self.is_written:
            return None
        uri = f"{self.uri}-{uuid4().hex[:8]}"
        try:
            self.storage.write(uri, self.content.encode())
            self.storage.remove(uri)
        except TirazhError as error:
            return f"{machine} cannot write the output: {error}"
        return None

    def _unreadable(self, machine: str) -> str | None:
        for uri in self.inputs:
            if not is_remote(uri) and not os.path.exists(uri):
                return f"input {uri} does not exist on {machine}; use a disk that all machines of the cluster share"
        first = self.inputs[:1] if self.is_written else ()
        try:
            for uri in first:
                with self.storage.open(uri) as file:
                    file.read(4)
        except (TirazhError, OSError) as error:
            return f"{machine} cannot read the input: {error}"
        if self.model != _EMBEDDED and not is_remote(self.model) and not Path(self.model).exists():
            return f"there is no model {self.model} on {machine}; copy the model to every machine"
        return None


@dataclass(frozen=True, slots=True)
class CheckedStep:
    """A step of the graph that first checks the output's disk, on machines that have joined later too."""

    probe: NodeProbe
    step: Step

    def __call__(self, table: pa.Table) -> pa.Table:
        self.probe.check_output()
        return self.step(table)


@contextmanager
def shared_paths(probe: NodeProbe, *, needs_gpu: bool) -> Iterator[Callable[[Step], Step]]:
    """Check all machines; inside the block, the function that is yielded adds the check to a step.

    Raises RequestError that names the machine and the path. Does nothing for Ray that tirazh has
    started on this machine alone.
    """
    if is_own_session():
        yield lambda step: step
        return
    probe.write()
    try:
        check_nodes(probe, needs_gpu=needs_gpu)
        yield lambda step: CheckedStep(replace(probe, inputs=()), step)
    finally:
        with suppress(TirazhError):
            probe.remove()


def make_probe(
    storage: Storage, output: str, own: Callable[[str], str], inputs: Sequence[str], model: str
) -> NodeProbe:
    """Make the probe of a run. `own` gives the URI of a file in `_tirazh/`.

    Of many input files, a hundred are looked for.
    """
    content = uuid4().hex
    step = -(-len(inputs) // _MAX_INPUT_FILES) or 1
    is_name = model == _EMBEDDED or is_remote(model)
    directory = model if is_name else os.path.abspath(os.path.expanduser(model))
    return NodeProbe(storage, output, own(f"probe-{content[:8]}"), content, tuple(inputs[::step]), directory)


def check_nodes(probe: NodeProbe, *, needs_gpu: bool, timeout_s: float = _ANSWER_TIMEOUT_S) -> None:
    """Ask every other machine that may work for the job, and raise RequestError with what it does not reach.

    One that does not answer in time is not judged.
    """
    asked = [_ask(node, probe, needs_gpu=needs_gpu) for node in other_machines()]
    answered, silent = ray.wait(asked, num_returns=len(asked), timeout=timeout_s) if asked else ([], [])
    for answer in answered:
        try:
            problem = ray.get(answer)
        except RayError as error:
            logger.warning("a machine could not look for the output: %s", str(error).strip().splitlines()[-1])
            continue
        if problem is not None:
            raise RequestError(problem)
    if silent:
        logger.warning("%d machines did not say within %g s whether they see the output", len(silent), timeout_s)


def other_machines() -> list[dict[str, Any]]:
    """The living nodes of the cluster that may get work, without the driver's, as `ray.nodes` describes them."""
    here = ray.get_runtime_context().get_node_id()
    return [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != here and _may_work(node["Resources"])]


def _may_work(resources: dict[str, float]) -> bool:
    """Whether a machine gets work: a head node often has neither CPUs nor GPUs."""
    return bool(resources.get("CPU") or resources.get("GPU"))


def _ask(node: dict[str, Any], probe: NodeProbe, *, needs_gpu: bool) -> Any:
    has_ranks = not needs_gpu or bool(node["Resources"].get("GPU"))
    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    task = ray.remote(_look).options(num_cpus=0, max_retries=1, scheduling_strategy=there)
    return task.remote(probe if has_ranks else replace(probe, model=_EMBEDDED))


def _machine() -> str:
    return machine_name(ray.util.get_node_ip_address() if ray.is_initialized() else "")


def _look(probe: NodeProbe) -> str | None:
    return probe.problem()
