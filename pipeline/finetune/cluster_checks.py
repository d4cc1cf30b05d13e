"""Checks a cluster before a training: packages, paths and resources of its machines. Each refusal names the machine."""

from __future__ import annotations

from dataclasses import replace

import ray

from tirazh.actors.training_group import choose_device, refuse_too_many
from tirazh.errors import RequestError
from tirazh.pipeline.execution.cluster.checks import (
    check_packages,
    check_paths,
    first_probe,
    input_files,
    model_directory,
)
from tirazh.pipeline.execution.cluster.packages import SAME_EVERYWHERE
from tirazh.pipeline.finetune.remote.output import working_directory
from tirazh.pipeline.finetune.spec import FinetuneSpec
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.storage.filesystem import Storage, is_remote


def check_for_training(spec: FinetuneSpec) -> None:
    """Raise RequestError for a connected cluster that cannot run the training; nothing is left behind.

    The driver's machine must read the input. All machines need the model, and must see and write the output.
    """
    check_packages((*SAME_EVERYWHERE, "peft") if spec.lora_rank else SAME_EVERYWHERE)
    device = choose_device(spec.device, spec.workers)
    refuse_too_many(spec.workers, device)
    output = OutputFiles.at(spec.output, Storage(spec.endpoint_url))
    inputs = input_files((*spec.input, *spec.eval_input, *spec.label_input), spec.endpoint_url)
    with first_probe(output, inputs) as probe:
        asked = replace(probe, model=model_directory(output, spec.model), needs_disk=not is_remote(output.directory))
        check_paths(asked, others=replace(asked, inputs=()), needs_gpu=device == "cuda")
    if is_remote(output.directory) and len(ray.nodes()) > 1:
        _check_work_dir(spec, output.directory, needs_gpu=device == "cuda")


def _check_work_dir(spec: FinetuneSpec, output: str, *, needs_gpu: bool) -> None:
    """Raise RequestError for a directory of the training that not all machines share: the workers read its data."""
    folder = working_directory(output, spec.work_dir)
    try:
        with first_probe(OutputFiles.at(str(folder), Storage()), ()) as probe:
            check_paths(replace(probe, needs_disk=True), needs_gpu=needs_gpu)
    except RequestError as error:
        raise RequestError(
            f"--work-dir {folder.parent} must be on a disk that all machines of the cluster share: {error}"
        ) from None
