"""The engine that runs a model: `build_runner` on every rank, `build_engine` on rank 0, as `rank.py` expects."""

from __future__ import annotations

import logging
from typing import Any

import torch

from tirazh.actors import rendezvous
from tirazh.actors.messages import ReplicaConfig
from tirazh.actors.rendezvous import RankPlace
from tirazh.model.checkpoints.directory import open_checkpoint
from tirazh.model.config import check_split
from tirazh.model.engine.admission import Admission
from tirazh.model.engine.batch_engine import BatchEngine, EngineConfig
from tirazh.model.engine.host_memory import free_host_bytes
from tirazh.model.engine.runner import ModelRunner, can_capture_graphs, hidden_size, slots_that_fit
from tirazh.model.layers.packed_linear import pack_linears
from tirazh.model.step import step_rows
from tirazh.model.tensor_parallel import agree_on_least, connect, shard_model, weight_bytes
from tirazh.model.tokenizer import load_tokenizer

logger = logging.getLogger(__name__)


def build_runner(config: ReplicaConfig, place: RankPlace) -> ModelRunner:
    """Load this rank's slice of the model and compute the job's shared prefix. All ranks do this together."""
    torch.set_num_threads(place.threads)
    checkpoint = open_checkpoint(config.model, config.flags)
    check_split(checkpoint.model.num_attention_heads, place.world_size)
    if place.world_size > 1:
        connect_ranks(place, device=config.device)
    model = shard_model(
        checkpoint.config,
        checkpoint,
        dtype=config.dtype,
        device=config.device,
        tp_rank=place.rank,
        tp_size=place.world_size,
    )
    rows, is_recorded = (
        step_rows(config.device, hidden_size(model)),
        place.world_size == 1 and can_capture_graphs(model),
    )
    pack_linears(model, rows=rows.decode)
    slots = min(config.slots, slots_that_fit(model, config.seq_length))
    if place.world_size > 1:
        slots = agree_on_least(slots)
    if slots < config.slots:
        logger.warning("%d slots instead of %d: the GPU's memory holds no more", slots, config.slots)
    runner = ModelRunner(
        model,
        num_slots=slots,
        max_length=config.seq_length,
        logit_rows=rows.decode,
        prefill_logit_rows=rows.prefill_logits,
        uses_cuda_graphs=is_recorded,
        overlaps_steps=is_recorded,
    )
    runner.set_prefix(config.job.prefix_token_ids, rows.prefill)
    return runner


def connect_ranks(place: RankPlace, *, device: str) -> None:
    """Let the ranks add up with each other. Their shared memory loses its name at once: nothing outlives them."""
    connect(may_share_memory=device == "cpu" and place.is_one_host)
    rendezvous.wait_for_all()
    rendezvous.remove_shared_memory(place)


def count_weight_bytes(runner: ModelRunner) -> int:
    return weight_bytes(runner.model)


def build_engine(config: ReplicaConfig, runner: Any) -> BatchEngine:
    """The engine above a runner that may also speak for other ranks."""
    tokenizer = load_tokenizer(open_checkpoint(config.model, config.flags).tokenizer_dir)
    rows = step_rows(config.device, hidden_size(runner.model))
    engine_config = EngineConfig(
        num_slots=runner.num_slots,
        max_length=runner.max_length,
        num_tokens=min(tokenizer.size, runner.model.config.vocab_size),
        end_token_ids=tokenizer.end_token_ids,
        prefill_rows=rows.prefill,
        decode_rows=rows.decode,
    )
    admission = None
    if config.device == "cpu":
        # Every rank takes the same, and most often on this very host.
        admission = Admission(
            runner.num_slots,
            bytes_of=lambda num_tokens: runner.cache.bytes_taken(num_tokens) * config.tensor_parallel,
            free_bytes=free_host_bytes,
        )
    return BatchEngine(runner, engine_config, config.job, decode=tokenizer.decode, admission=admission)
