"""Scores of the labels of rows, as `tirazh classify` makes them, in this process: prompts, engine, and the scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from tests.model.tiny import build_engine, run, use_threads
from tirazh.model.requests import LabelScores
from tirazh.model.tokenizer import load_tokenizer
from tirazh.pipeline import schema
from tirazh.pipeline.classification.scores import NO_CORRECTIONS, normalise
from tirazh.pipeline.prompts.encode import PromptStep, cached_tokenizer
from tirazh.pipeline.prompts.label_prompts import sample_prompts
from tirazh.pipeline.prompts.prepare import PreparedPrompts, prepare_prompts
from tirazh.pipeline.prompts.source import prompt_source
from tirazh.pipeline.spec import ClassifySpec

MAX_LENGTH = 256


def tiny_llama(size: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=size, initializer_range=0.3, **sizes)).eval()


def prepare(folder: Path, *, sample: Sequence[str] | None = None, **settings: Any) -> PreparedPrompts:
    """Prepare a job on the column `text`; `sample` are the texts of `calibrate: batch`."""
    spec = ClassifySpec(input=("in",), output="out", **settings)
    cached_tokenizer.cache_clear()
    prepared = prepare_prompts(
        spec,
        load_tokenizer(str(folder)),
        prompt_source(spec),
        tokenizer_dir=str(folder),
        seq_length=MAX_LENGTH,
        examples=Path(spec.examples).read_bytes() if spec.examples else None,
    )
    if sample is None or prepared.labels is None:
        return prepared
    prompts = sample_prompts(prepared.config, pa.table({"text": list(sample)}))
    return replace(prepared, labels=replace(prepared.labels, prior_prompts=prompts))


def prompts_of(prepared: PreparedPrompts, rows: Sequence[str]) -> pa.Table:
    """The rows' prompts and errors."""
    columns: dict[str, Any] = {"text": rows, schema.PART: [0] * len(rows), schema.REPETITION: [0] * len(rows)}
    return PromptStep(prepared.config)(pa.table(columns))


def label_scores(prepared: PreparedPrompts, model: nn.Module, rows: Sequence[str]) -> Any:
    """The column `schema.LABEL_LOGPROBS` of rows without errors, as an array [N, L]."""
    labels = prepared.labels
    assert labels is not None
    table = prompts_of(prepared, rows)
    assert table.column(schema.ROW_ERROR).null_count == len(rows), table.column(schema.ROW_ERROR)
    size = model.config.vocab_size
    engine = build_engine(model, job=prepared.engine_jobs[0], max_length=MAX_LENGTH, num_tokens=size, num_slots=8)
    for index, job in enumerate(prepared.engine_jobs):
        assert engine.add_job(job) == index
    requests = labels.at_start()
    prompts: list[Any] = table.column(schema.PROMPT_IDS).to_pylist()
    with use_threads(1):  # the model is too small for more
        corrections = labels.corrections(run(engine, requests)) if requests else NO_CORRECTIONS
        results = [each for each in run(engine, labels.of_prompts(prompts)) if isinstance(each, LabelScores)]
    orders = labels.layout.orders
    answers = [results[first : first + orders] for first in range(0, len(results), orders)]
    return labels.logprobs(answers, corrections)


def probabilities(prepared: PreparedPrompts, model: nn.Module, rows: Sequence[str]) -> Any:
    """The probabilities of the labels [N, L]; those of each question sum to one."""
    assert prepared.labels is not None
    return np.exp(normalise(label_scores(prepared, model, rows), prepared.labels.layout))
