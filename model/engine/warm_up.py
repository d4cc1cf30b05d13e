"""Runs one step of every shape that a job can meet, before the first request.

What takes longer the first time (kernels that a library chooses or compiles, CUDA graphs that are
captured) then belongs to the start of a replica, and how long a layer takes is known. The steps run
in slots that are thrown away, so an engine answers the same with and without them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

from tirazh.model.attention.kv_cache import KVCache
from tirazh.model.engine.jobs import rows_of_prefill
from tirazh.model.engine.labels.trie import LabelTrie, SplitTrie, job_trie
from tirazh.model.engine.runner import ModelRunner
from tirazh.model.engine.sequences import StepBuilder
from tirazh.model.requests import EngineJob
from tirazh.model.step import FreshSlot, Step, StepRows, chunk_length

_TOKEN = 0  # any valid token id
_TREE = EngineJob(labels=((_TOKEN, _TOKEN),))  # a trie of one node


def warm_up(runner: ModelRunner, job: EngineJob, rows: StepRows) -> None:
    """Run a prefill step and a decode step, whose rows are those of prompts with and without the
    job's shared prefix and, where the job has labels, of their trie.

    The runner must already hold the prefix. All ranks of a replica call this together.
    """
    trie = job_trie(job, runner.vocab_size) if job.labels else None
    steps = functools.partial(_steps, trie=trie, rows=rows, window=runner.window_size, max_length=runner.max_length)
    runner.warm_up(steps, num_slots=max(2, min(runner.num_slots, rows.decode)))


def compile_kernels(runner: ModelRunner, rows: StepRows) -> None:
    """Compile the Triton kernels for all jobs that may come, by eager steps.

    Triton compiles a kernel again for every combination of its constants, of dtypes, and of which of its integers are
    1 or divisible by 16. Of these only constants differ between the steps of a model: what varies from step to step is
    in tables on the device. The constants say whether a layer has keys of a shared prefix and whether the tiles are
    label trees, so the steps run without a prefix and with one that sparse layers hold too, each with trees and
    without. All ranks of a replica call this together.
    """
    window, max_length = runner.window_size, runner.max_length
    trie = job_trie(_TREE, runner.vocab_size)
    steps = functools.partial(_steps, trie=trie, rows=rows, window=window, max_length=max_length)
    for prefix in ((), (_TOKEN,) * min(window, max_length)):
        runner.run_apart(steps, prefix=prefix, prefill_rows=rows.prefill)


def _steps(cache: KVCache, *, trie: SplitTrie | None, rows: StepRows, window: int, max_length: int) -> Iterator[Step]:
    """Yield the steps. A GPU has a graph of its own for prefill steps in which no label trie runs."""
    num_rows = rows_of_prefill(rows.prefill, window, trie.max_nodes if trie else 0)
    first = trie.pieces[0].trie if trie else None
    tries = (first, None) if first is not None and cache.device.type != "cpu" else (first,)
    for each in tries:
        prefill = _prefill(cache, each, num_rows, window=window, max_chunk=rows.prefill, max_length=max_length)
        if prefill is not None:
            yield prefill
    decode = _decode(cache, rows.decode, max_length)
    if decode is not None:
        yield decode


def _prefill(
    cache: KVCache, trie: LabelTrie | None, num_rows: int, *, window: int, max_chunk: int, max_length: int
) -> Step | None:
    """A prompt of one chunk in every slot, as many as fit; None where not even one does."""
    builder, fresh = StepBuilder("prefill", num_rows), []
    num_nodes, height = (trie.num_nodes, trie.height) if trie else (0, 1)
    for slot in range(cache.num_slots):
        start = _start(cache, slot, max_length - height)
        longest = chunk_length(start, window=window, max_length=max_chunk)
        length = min(longest, max_length - height - start, num_rows - builder.row - num_nodes)
        if length < 1:
            break
        builder.add(slot, [_TOKEN] * length, start)
        if trie:
            builder.add_trie(slot, trie, start + length)
            builder.request_trie_logits(slot, trie)
        else:
            builder.request_logits(slot, 1)
        fresh.append(FreshSlot(slot, uses_prefix=start > 0))
    return builder.build(tuple(fresh)) if fresh else None


def _decode(cache: KVCache, num_rows: int, max_length: int) -> Step | None:
    """A token in every slot, as many as the step has rows; None where a sequence has but one token."""
    builder, fresh = StepBuilder("decode", num_rows), []
    for slot in range(min(cache.num_slots, num_rows)):
        if not cache.lengths[slot]:
            fresh.append(FreshSlot(slot, uses_prefix=False))
        if cache.lengths[slot] < max_length:
            builder.add(slot, (_TOKEN,), cache.lengths[slot])
            builder.request_logits(slot, 1)
    return builder.build(tuple(fresh)) if builder.row else None


def _start(cache: KVCache, slot: int, longest_prompt: int) -> int:
    """Where a prompt begins: behind the shared prefix in every second slot, if one fits behind it."""
    fits = cache.prefix is not None and cache.prefix.length < longest_prompt
    return cache.prefix.length if cache.prefix is not None and fits and slot % 2 == 0 else 0
