"""The engine module that runs a model: a `ModelRunner` on every rank, a `BatchEngine` on rank 0."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tirazh.actors import rendezvous
from tirazh.actors.messages import ReplicaConfig
from tirazh.actors.progress import ProgressCounter
from tirazh.actors.rendezvous import RankPlace
from tirazh.model.checkpoints.directory import open_checkpoint
from tirazh.model.config import check_split
from tirazh.model.constraints.grammar import Grammars
from tirazh.model.constraints.tokens import grammar_tokenizer
from tirazh.model.engine.admission import Admission
from tirazh.model.engine.batch_engine import BatchEngine
from tirazh.model.engine.config import EngineConfig
from tirazh.model.engine.constrained import ConstrainedDecoding, min_forced_run
from tirazh.model.engine.prefix_caching.slots import MOST_PREFIX_SLOTS, divide_slots
from tirazh.model.engine.runner import ModelRunner, can_capture_graphs, hidden_size, slots_that_fit
from tirazh.model.engine.scheduler import Scheduler
from tirazh.model.engine.self_check import SelfCheck
from tirazh.model.engine.sliced_logits import SlicedLogits
from tirazh.model.engine.warm_up import compile_kernels, warm_up
from tirazh.model.host_memory import free_host_bytes
from tirazh.model.kernels.build import KERNELS, prepare_kernels
from tirazh.model.layers.chunked_linear import check_own_kernels
from tirazh.model.layers.int8_linear import check_all_int8
from tirazh.model.layers.packed_linear import pack_linears
from tirazh.model.step import Step, step_rows
from tirazh.model.tensor_parallel import agree_on_least, connect, shard_model, weight_bytes
from tirazh.model.text_splits import text_splits
from tirazh.model.tokenizer import load_tokenizer

logger = logging.getLogger(__name__)

# Of the kernels that one dtype uses.
_DTYPE_OF = {
    "linear_tiles": "bfloat16",
    "linear_bf16": "bfloat16",
    "linear_float": "float32",
    "linear_int8": "int8",
}


def build_runner(config: ReplicaConfig, rank_place: RankPlace, progress: ProgressCounter) -> ModelRunner:
    """Compile the kernels, load this rank's shard of the model, compute the first job's shared prefix,
    compare a foreign model with transformers and run a step of every shape. All ranks do this
    together."""
    torch.set_num_threads(rank_place.threads)
    if config.device == "cpu":
        progress.phase = "compiling kernels"
        prepare_kernels([name for name in KERNELS if _DTYPE_OF.get(name, config.dtype) == config.dtype])
    progress.phase = "fetching the model" if config.fetch_model is not None else "loading the model"
    directory = config.model_directory()
    progress.phase = "loading the model"
    checkpoint = open_checkpoint(directory, config.model_settings)
    check_split(checkpoint.model.num_attention_heads, rank_place.world_size)
    if rank_place.world_size > 1:
        connect_ranks(rank_place, device=config.device)
    self_check = SelfCheck(config.seq_length)
    model = shard_model(
        checkpoint.config,
        checkpoint,
        on_loaded=self_check.record,
        dtype=config.dtype,
        device=config.device,
        tp_rank=rank_place.rank,
        tp_size=rank_place.world_size,
        is_invariant=config.invariant is not None,
    )
    rows = step_rows(config.device, hidden_size(model))
    uses_graphs = can_capture_graphs(model, config.seq_length)
    if rank_place.world_size > 1:
        uses_graphs = bool(agree_on_least(int(uses_graphs)))  # a graph holds the sums of all ranks
    pack_linears(model, rows=rows.decode, to_int8=config.dtype == "int8")
    if config.dtype == "int8":
        check_all_int8(model)
    if config.invariant is not None:
        check_own_kernels(model, config.dtype)
    progress.phase = "warming up"
    num_slots = _num_slots(config, model, rank_place)
    runner = ModelRunner(
        model,
        num_slots=num_slots,
        max_length=config.seq_length,
        logit_rows=rows.decode,
        prefill_logit_rows=rows.prefill_logits,
        uses_cuda_graphs=uses_graphs,
        overlaps_steps=uses_graphs,
    )
    runner.on_progress = progress.beat
    if rank_place.world_size > 1:
        runner.agree = lambda value: bool(agree_on_least(int(value)))
        runner.share_tokens = functools.partial(dist.broadcast, src=0)  # by NCCL on GPUs, which does not wait here
    runner.set_prefix(config.jobs[0].prefix_token_ids, rows.prefill)
    self_check.compare(runner, rows, is_int8=config.dtype == "int8")
    if config.device != "cpu":
        compile_kernels(runner, rows)
        warm_up(runner, config.jobs[0], rows)  # captures the CUDA graphs
    progress.restart()
    warm_up(runner, config.jobs[0], rows)
    return runner


def _num_slots(config: ReplicaConfig, model: nn.Module, rank_place: RankPlace) -> int:
    """The slots of the cache, those of cached prefixes included: as many as the memory of every rank holds."""
    longest_prefix = max(len(job.prefix_token_ids) for job in config.jobs)
    num_slots = min(config.slots + MOST_PREFIX_SLOTS, slots_that_fit(model, config.seq_length, longest_prefix))
    if rank_place.world_size > 1:
        num_slots = agree_on_least(num_slots)
    slots, _ = divide_slots(config.slots, num_slots)
    if slots < config.slots:
        logger.warning("%d slots instead of %d: the GPU's memory holds no more", slots, config.slots)
    return num_slots


def connect_ranks(rank_place: RankPlace, *, device: str) -> None:
    """Set up the sums over ranks. The shared memory they use loses its name at once, so none
    outlives the processes."""
    connect(may_share_memory=device == "cpu" and rank_place.is_one_host)
    rendezvous.wait_for_all()
    rendezvous.remove_shared_memory(rank_place)


def count_weight_bytes(runner: ModelRunner) -> int:
    return weight_bytes(runner.model)


def build_engine(
    config: ReplicaConfig, runner: ModelRunner, execute: Callable[[Step], Tensor | SlicedLogits]
) -> BatchEngine:
    """Build scheduler and engine on rank 0; `execute` runs a step on every rank and returns rank
    0's logits."""
    checkpoint = open_checkpoint(config.model_directory(), config.model_settings)
    tokenizer = load_tokenizer(checkpoint.tokenizer_dir, checkpoint.path)
    rows = step_rows(config.device, hidden_size(runner.model))
    vocab_size = int(runner.model.config.vocab_size)  # type: ignore[union-attr, arg-type]
    slots, prefix_slots = divide_slots(config.slots, runner.num_slots)
    engine_config = EngineConfig(
        num_slots=slots,
        max_length=runner.max_length,
        num_tokens=min(tokenizer.size, vocab_size),
        end_token_ids=tokenizer.end_token_ids,
        control_names={token: name for name, token in tokenizer.control_tokens.items()},
        prefill_rows=rows.prefill,
        decode_rows=rows.decode,
        num_prefix_slots=prefix_slots,
    )
    admission = _admission(config, engine_config, runner)
    scheduler = Scheduler(engine_config, *config.jobs, window_size=runner.window_size, admission=admission)
    constrained = ConstrainedDecoding(
        Grammars(lambda: grammar_tokenizer(tokenizer)),
        num_threads=torch.get_num_threads(),
        min_forced_run=min_forced_run(config.device),
    )
    return BatchEngine(
        runner,
        scheduler,
        execute=execute,
        decode=tokenizer.decode_completion,
        splits_before=text_splits(tokenizer),
        constrained=constrained,
        cache_bytes=lambda num_tokens: runner.cache.bytes_taken(num_tokens) * config.tensor_parallel,
    )


def _admission(config: ReplicaConfig, engine_config: EngineConfig, runner: ModelRunner) -> Admission | None:
    """Limit sequences by memory on a CPU. A GPU's cache is allocated as a whole, so there slots are
    the limit."""
    if config.device != "cpu":
        return None
    return Admission(
        engine_config.num_slots,
        num_prefix_slots=engine_config.num_prefix_slots,
        # Every rank allocates the same amount, and in most cases all ranks are on this host.
        bytes_of=lambda num_tokens: runner.cache.bytes_taken(num_tokens) * config.tensor_parallel,
        free_bytes=free_host_bytes,
    )
