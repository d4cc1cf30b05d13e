"""Checks a cluster before the first row of a job: packages, paths and resources of all its machines.

Each refusal names the machine. Used by the driver of a submitted job; `node_probe.shared_paths` watches the output's
disk during the run, on machines that join later too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import NodeDiedError, RayError, WorkerCrashedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tirazh.actors.messages import ReplicaConfig
from tirazh.actors.placement import bundle, refuse_impossible
from tirazh.errors import InputError, RequestError, TirazhError
from tirazh.pipeline.execution.cluster.packages import SAME_EVERYWHERE, compare_nodes, describe_node, machine_name
from tirazh.pipeline.execution.cluster.probe import NodeProbe, check_nodes, make_probe, other_machines
from tirazh.pipeline.execution.ray_session import resolve_device
from tirazh.pipeline.input.listing.files import list_inputs
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.spec import JobSpec, StepsSpec, parse_replicas
from tirazh.pipeline.storage.filesystem import Storage, full_uri, is_remote

Tell = Callable[[str], None]
_ANSWER_TIMEOUT_S = 25.0


def check_cluster(spec: JobSpec | StepsSpec, *, tell: Tell) -> None:
    """Check all machines of the connected cluster; nothing is left behind.

    `tell` receives a sentence if the cluster holds fewer replicas now than the job asks for. Raises RequestError that
    names the machine and what it lacks.
    """
    jobs = [spec] if isinstance(spec, JobSpec) else spec.model_steps
    check_packages()
    output = OutputFiles.at(spec.output, Storage(spec.endpoint_url))
    device = {job.model: resolve_device(job) for job in jobs}
    with first_probe(output, _inputs(jobs)) as probe:
        for model in device:
            check_paths(replace(probe, model=model_directory(output, model)), needs_gpu=device[model] == "cuda")
    for job in jobs:
        check_resources(job, device[job.model], tell=tell)


def model_directory(output: OutputFiles, model: str) -> str:
    """The path of a model as all machines know it, or its name."""
    return make_probe(output.storage, output.directory, output.own, (), model).model


def check_paths(probe: NodeProbe, *, others: NodeProbe | None = None, needs_gpu: bool) -> None:
    """Raise RequestError with what this machine does not reach, or another one; that is asked for `others`."""
    problem = probe.problem()
    if problem is not None:
        raise RequestError(problem)
    check_nodes(others or probe, needs_gpu=needs_gpu)


def check_packages(names: Sequence[str] = SAME_EVERYWHERE, *, timeout_s: float = _ANSWER_TIMEOUT_S) -> None:
    """Raise RequestError if a machine has another Python, or lacks packages or has other versions, than the driver's.

    `names` are the packages that are compared.
    A machine that dies meanwhile, or does not answer in time, is not judged.
    """
    here = describe_node(ray.util.get_node_ip_address(), names)
    asked = {_ask(node, names): node for node in other_machines()}
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=timeout_s) if asked else ([], [])
    for answer in answered:
        try:
            problem = compare_nodes(here, ray.get(answer))
        except (NodeDiedError, WorkerCrashedError):
            continue
        except RayError as error:
            node = asked[answer]
            reason = str(error).strip().splitlines()[-1].strip()
            raise RequestError(
                f"machine {node['NodeManagerHostname']} ({node['NodeManagerAddress']}) cannot run tasks of this job: "
                f"{reason[:300]}"
            ) from None
        if problem is not None:
            raise RequestError(problem)


def check_resources(spec: JobSpec, device: str, *, tell: Tell) -> None:
    """Raise RequestError if the cluster can never hold one replica; tell if it holds fewer than the job asks for."""
    config = ReplicaConfig(model=spec.model, tensor_parallel=spec.tensor_parallel, device=device)
    refuse_impossible(config)
    wanted, total = parse_replicas(spec.replicas)[0], ray.cluster_resources()
    holds = min(int(total.get(name, 0) // (each * spec.tensor_parallel)) for name, each in bundle(config).items())
    if holds < wanted:
        tell(f"the cluster can hold {holds} of {wanted} replicas now; the others start when it has more resources")


def _inputs(jobs: Sequence[JobSpec]) -> list[str]:
    """The files of all inputs, as this machine lists them."""
    return [uri for job in jobs if job.input for uri in input_files(job.input, job.endpoint_url)]


def input_files(inputs: Sequence[str], endpoint_url: str | None) -> list[str]:
    """The files of these inputs, as this machine lists them. Raises InputError, which names the machine."""
    try:
        return [file.uri for file in list_inputs(Storage(endpoint_url), list(map(full_uri, inputs)))]
    except InputError as error:
        if all(map(is_remote, inputs)):
            raise
        address = ray.util.get_node_ip_address()
        raise InputError(f"on {machine_name(address)}, where the driver of the job runs: {error}") from None


@contextmanager
def first_probe(output: OutputFiles, inputs: Sequence[str]) -> Iterator[NodeProbe]:
    """Inside the block, the probe file is in the output. Directories that were made for it are removed after it."""
    probe = replace(make_probe(output.storage, output.directory, output.own, inputs, "embedded"), is_written=True)
    made = [] if is_remote(output.directory) else [output.own(), output.directory]
    made = [directory for directory in made if not os.path.exists(directory)]
    try:
        try:
            probe.write()
        except TirazhError as error:
            raise type(error)(
                f"{machine_name(ray.util.get_node_ip_address())} cannot write the output: {error}"
            ) from None
        yield probe
    finally:
        with suppress(TirazhError):
            probe.remove()
        for directory in made:
            with suppress(OSError):  # it is not empty
                os.rmdir(directory)


def _ask(node: dict[str, Any], names: Sequence[str]) -> Any:
    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    return (
        ray.remote(describe_node)
        .options(num_cpus=0, max_retries=1, scheduling_strategy=there)
        .remote(node["NodeManagerAddress"], tuple(names))
    )
