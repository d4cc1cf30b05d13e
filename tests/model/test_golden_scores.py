"""Log-likelihoods against the original's own logits, from its own checkpoints, token by token in float64."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.model.test_golden import CASES, TOLERANCE
from tests.model.tiny import build_engine, run
from tirazh.model.engine.batch_engine import BatchEngine
from tirazh.model.engine.sequences import ActiveSequence
from tirazh.model.layers.packed_linear import pack_linears
from tirazh.model.load import load_pretrained
from tirazh.model.requests import Completion, GenerateRequest, SamplingParams, TextScore, TextScoreRequest

LENGTH = 300


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, golden_dir: Path) -> Path:
    return golden_dir / str(request.param)


def make_engine(case: Path) -> BatchEngine:
    model = load_pretrained(str(case))
    pack_linears(model, rows=64)
    return build_engine(model, max_length=512, num_tokens=model.config.vocab_size, prefill_rows=128, decode_rows=64)


def test_the_score_of_every_token_is_the_originals(case: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = load_file(case / "reference.safetensors")
    tokens: list[list[int]] = tensors["tokens"].tolist()
    terms: dict[int, list[float]] = {}
    take = BatchEngine._take_text

    def record(engine: BatchEngine, slot: int, sequence: ActiveSequence, logprobs: Sequence[float]) -> None:
        terms.setdefault(sequence.id, []).extend(logprobs)
        take(engine, slot, sequence, logprobs)

    monkeypatch.setattr(BatchEngine, "_take_text", record)
    results: list[Any] = run(make_engine(case), [TextScoreRequest(token_ids=row, num_context=1) for row in tokens])
    for index, (row, result) in enumerate(zip(tokens, results, strict=True)):
        expected = torch.log_softmax(tensors["logits"][index].double(), -1)[torch.arange(len(row) - 1), row[1:]]
        assert float((torch.tensor(terms[index]) - expected).abs().max()) < TOLERANCE
        assert isinstance(result, TextScore)
        assert result.logprob == pytest.approx(float(expected.sum()), abs=TOLERANCE * len(row))


def test_the_logprob_of_a_completion_is_the_originals(case: Path) -> None:
    """The completion is forced to the original's tokens by a bias, which the log-probability leaves out."""
    tensors = load_file(case / "reference.safetensors")
    row: list[int] = tensors["tokens"][0].tolist()
    forced, start = row[LENGTH], LENGTH
    sampling = SamplingParams(max_new_tokens=1, temperature=0, logit_bias=((forced, 100.0),), repetition_penalty=1.5)
    (result,) = run(make_engine(case), [GenerateRequest(prompt_token_ids=row[:start], sampling=sampling, seed=0)])
    assert isinstance(result, Completion)
    assert list(result.token_ids) == [forced]
    expected = torch.log_softmax(tensors["logits"][0, start - 1].double(), -1)[forced]
    assert result.logprob == pytest.approx(float(expected), abs=TOLERANCE)
