"""The memory of a training worker, from the shape of the model and the settings.

Its constants were fitted to peaks of one worker on a CPU (docs/finetune.md, "Memory"). GPUs, several workers and ZeRO 2
and 3 have the same parts; they were not measured.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import prod

from tirazh.model.config import ModelConfig, expected_shapes
from tirazh.pipeline.finetune.forecast.disk import count_trained, count_weights
from tirazh.pipeline.finetune.forecast.sample import CorpusSample
from tirazh.pipeline.finetune.plan import FinetunePlan
from tirazh.pipeline.finetune.spec import FinetuneSpec

# A worker's Python with torch, DeepSpeed and Ray, once it trains a model of no size. Without Ray it is 490 MiB.
LIBRARY_BYTES = 720 << 20
_HALF = ("bfloat16", "float16")
# Tensors of the size of a layer's output that a layer keeps for the backward pass, and that its own backward pass takes
# with activation checkpointing.
_KEPT_TENSORS, _LAYER_TENSORS = 11, 22
# Float32 tensors of the size of the logits that the loss and its gradient take at the same time.
_LOGIT_TENSORS = 3
# Bytes of buffers in an optimizer step: for each trained weight of a worker's share with ZeRO (gradients in float32 and
# what Adam makes of its states), and for those of the largest tensor without, as Adam takes one at a time.
_ZERO_BUFFERS, _ADAM_BUFFERS = 15, 8


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerMemory:
    """Bytes of one worker at its peak, by what they hold.

    `update` and `loading` are what an optimizer step, and loading the model, take beyond the backward pass with its
    `activations`: these peaks are at different times. With `on_gpu` the libraries and the loading are on the host, as
    are `offloaded` bytes of the others.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    update: int
    loading: int
    libraries: int
    on_gpu: bool = False
    offloaded: int = 0

    @property
    def total(self) -> int:
        """The bytes on the device: those of a GPU without the libraries and the loading, which are on the host."""
        trained = self.weights + self.gradients + self.optimizer + self.activations + self.update
        return trained - self.offloaded if self.on_gpu else trained + self.loading + self.libraries

    @property
    def on_host(self) -> int:
        """The bytes of the host's memory."""
        return self.libraries + self.loading + self.offloaded if self.on_gpu else self.total

    def to_dict(self) -> dict[str, int]:
        """Return the bytes by what they hold."""
        return {name: value for name, value in asdict(self).items() if name not in ("on_gpu", "offloaded")}


def worker_memory(plan: FinetunePlan, sample: CorpusSample, *, device: str, dtype: str) -> WorkerMemory:
    """Estimate the peak of the memory of one worker.

    `device` is cpu or cuda, and `dtype` that of the training.
    """
    longest = max(1, min(plan.seq_length, _longest_sequence(plan, sample)))
    trained_share = sample.trained_tokens / sample.tokens if sample.tokens else 1.0
    return estimate(plan.config, plan.spec, tokens=longest, trained_share=trained_share, device=device, dtype=dtype)


def estimate(
    config: ModelConfig, spec: FinetuneSpec, *, tokens: int, trained_share: float, device: str, dtype: str
) -> WorkerMemory:
    """Estimate the memory for sequences of `tokens` tokens, of which `trained_share` count in the loss."""
    weights, trained = count_weights(config), count_trained(config, spec)
    is_half, workers = dtype in _HALF, spec.workers
    stage = max(1, spec.zero_stage) if is_half else spec.zero_stage
    item = 2 if is_half else 4
    all_weights = weights + (trained if spec.lora_rank else 0)
    held = item * (all_weights // workers if stage == 3 else all_weights)
    gradients = item * trained // (workers if stage >= 2 else 1)
    optimizer = (12 if is_half else 8) * trained // (workers if stage >= 1 else 1)
    activations = _activations(config, spec, tokens=tokens, trained_share=trained_share, item=item)
    sharded, largest = trained // workers, max(map(prod, expected_shapes(config).values()))
    buffers = _ZERO_BUFFERS * sharded if stage else _ADAM_BUFFERS * min(largest, trained)
    update = max(0, buffers - activations)
    rest = held + gradients + optimizer + activations + update
    on_gpu = device == "cuda"
    # The whole model in float32, and the copy in the dtype of the training beside it.
    loading = 4 * all_weights + (item * all_weights if is_half else 0)
    offloaded = optimizer if spec.offload != "none" else 0
    offloaded += held if spec.offload == "all" else 0
    return WorkerMemory(
        weights=held,
        gradients=gradients,
        optimizer=optimizer,
        activations=activations,
        update=update,
        loading=loading if on_gpu else max(0, loading - rest),
        libraries=LIBRARY_BYTES,
        on_gpu=on_gpu,
        offloaded=offloaded if on_gpu else 0,
    )


def _activations(config: ModelConfig, spec: FinetuneSpec, *, tokens: int, trained_share: float, item: int) -> int:
    """The bytes of a microbatch: what its layers keep for the backward pass, and its logits."""
    count = spec.micro_batch_size * tokens
    kept = _KEPT_TENSORS * config.num_layers
    if spec.activation_checkpointing:
        kept = config.num_layers + _LAYER_TENSORS
    logits = round(count * trained_share) * config.vocab_size
    return count * config.hidden_size * item * kept + logits * 4 * _LOGIT_TENSORS


def _longest_sequence(plan: FinetunePlan, sample: CorpusSample) -> int:
    """The inputs of the longest sequence: of a document alone, or of a full sequence."""
    return sample.longest - 1 if plan.packing == "single" else min(sample.tokens, plan.seq_length)
