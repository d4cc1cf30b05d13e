"""Checks a cluster before a training: packages, paths and resources of its machines. Each refusal names the machine."""

from __future__ import annotations

from dataclasses import replace

from tirazh.actors.training_group import choose_device, refuse_too_many
from tirazh.pipeline.execution.cluster.checks import (
    check_packages,
    check_paths,
    first_probe,
    input_files,
    model_directory,
)
from tirazh.pipeline.execution.cluster.packages import SAME_EVERYWHERE
from tirazh.pipeline.finetune.spec import FinetuneSpec
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.storage.filesystem import Storage


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
        asked = replace(probe, model=model_directory(output, spec.model), needs_disk=True)
        check_paths(asked, others=replace(asked, inputs=()), needs_gpu=device == "cuda")
