"""The embedded model with a batch engine that follows constraints, as a replica on a CPU builds it."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from tirazh.model.constraints.grammar import Grammars
from tirazh.model.constraints.tokens import grammar_tokenizer
from tirazh.model.engine.batch_engine import BatchEngine
from tirazh.model.engine.config import EngineConfig
from tirazh.model.engine.constrained import ConstrainedDecoding
from tirazh.model.engine.runner import ModelRunner
from tirazh.model.engine.scheduler import Scheduler
from tirazh.model.layers.packed_linear import pack_linears
from tirazh.model.load import EMBEDDED_DIR, load_pretrained
from tirazh.model.requests import Completion, Constraint, EngineJob, GenerateRequest, SamplingParams
from tirazh.model.tokenizer import Tokenizer, load_tokenizer

NEVER = 1 << 20  # a run of forced tokens that is never reached: every token is decoded alone


@functools.cache
def embedded_model() -> nn.Module:
    model = load_pretrained("embedded")
    pack_linears(model, rows=64)
    return model


@functools.cache
def embedded_tokenizer() -> Tokenizer:
    return load_tokenizer(str(EMBEDDED_DIR))


@functools.cache
def grammars() -> Grammars:
    return Grammars(lambda: grammar_tokenizer(embedded_tokenizer()))


def constrained_engine(
    *, slots: int = 8, min_forced_run: int = 2, prefix: str = "", overlaps_steps: bool = False
) -> BatchEngine:
    """Build an engine whose sequences have at most 512 tokens."""
    model, tokenizer = embedded_model(), embedded_tokenizer()
    runner = ModelRunner(
        model, num_slots=slots, max_length=512, logit_rows=64, prefill_logit_rows=16, overlaps_steps=overlaps_steps
    )
    job = EngineJob(prefix_token_ids=tuple(tokenizer.encode(prefix)))
    runner.set_prefix(job.prefix_token_ids, 512)
    config = EngineConfig(
        num_slots=slots,
        max_length=512,
        num_tokens=tokenizer.size,
        end_token_ids=tokenizer.end_token_ids,
        prefill_rows=512,
        decode_rows=64,
    )
    constrained = ConstrainedDecoding(grammars(), num_threads=torch.get_num_threads(), min_forced_run=min_forced_run)
    scheduler = Scheduler(config, job, window_size=runner.window_size)
    return BatchEngine(runner, scheduler, decode=tokenizer.decode_completion, constrained=constrained)


def request(prompt: str, constraint: Constraint | None, *, seed: int = 0, **sampling: Any) -> GenerateRequest:
    return GenerateRequest(
        prompt_token_ids=tuple(embedded_tokenizer().encode(prompt)),
        sampling=SamplingParams(**{"max_new_tokens": 96, "temperature": 0.8, "top_p": 0.95} | sampling),
        seed=seed,
        constraint=constraint,
    )


def complete(engine: BatchEngine, requests: Sequence[GenerateRequest]) -> list[Completion]:
    """Run all requests to their end; return results in the order of the requests."""
    ids = engine.add(requests)
    results: dict[int, Any] = {}
    while engine.has_work:
        results.update(engine.step())
    return [results[id] for id in ids]


def text_of(completion: Completion) -> str:
    return embedded_tokenizer().decode_completion(completion.token_ids)


def of_schema(schema: Any) -> Constraint:
    return Constraint("schema", json.dumps(schema, ensure_ascii=False))


def of_regex(pattern: str) -> Constraint:
    return Constraint("regex", pattern)


def of_choices(*texts: str) -> Constraint:
    return Constraint("choices", json.dumps(texts, ensure_ascii=False))
