"""Compares the engine with a model's own forward pass when a model of transformers is loaded.

Two prompts run in the engine side by side: a short one, and one that is longer than the sliding
windows of the model's layers. The logits behind their last token, behind a token that is decoded and
those in a label trie are compared with the logits that transformers computes for each prompt alone,
before the model is sharded and its weights are packed. A ruGPT-3 is not checked: it has golden tests.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tirazh.errors import CheckpointError
from tirazh.model.engine.jobs import rows_of_prefill
from tirazh.model.engine.labels.trie import LabelTrie
from tirazh.model.engine.network import is_own
from tirazh.model.engine.runner import ModelRunner
from tirazh.model.engine.sequences import StepBuilder
from tirazh.model.step import FreshSlot, Step, StepRows, chunk_length

logger = logging.getLogger(__name__)

# The root mean square of the differences, in units of the logits' standard deviation. An engine that
# does what the model does is about a hundred times better in float32, and five times in narrower dtypes.
TOLERANCE = {torch.float32: 2e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}
# In a narrow dtype some models amplify rounding: the logits of SmolLM2-135M in bfloat16 are off by 0.1 to 0.4, and its
# own implementations of attention differ by 0.2. So the effect of one rounding of the embeddings is measured on the
# model itself. An engine that computes something else is off by 1 or more.
_NOISE_FACTOR, _MAX_TOLERANCE = 3.0, 0.5
_SHORT, _LONG, _BEYOND_WINDOW = 6, 40, 9  # tokens
_NUM_DECODED = 2
# A prompt longer than `_LONG` is skipped where it would take long: about 10 s on two CPU cores, 1 GB.
_MAX_PRODUCTS, _MAX_SCORES = 1e12, 2e8


def tolerance_of(dtype: torch.dtype, noise: float) -> float:
    """The difference that is allowed in `dtype`, for a model in which one rounding changes the logits by `noise`."""
    if dtype == torch.float32:
        return TOLERANCE[dtype]
    return min(_MAX_TOLERANCE, max(TOLERANCE[dtype], _NOISE_FACTOR * noise))


def _difference(own: Tensor, expected: Tensor) -> float:
    """The largest root mean square difference of a row of logits [R, V], in units of the row's spread."""
    spread = expected.std(dim=-1).clamp(min=torch.finfo(torch.float32).tiny)
    return float(((own - expected).square().mean(dim=-1).sqrt() / spread).max())


def _rounding_noise(model: nn.Module, token_ids: Tensor, logits: Tensor) -> float:
    """What changes in `logits` when the embeddings are rounded once more, at random."""
    embeddings = model.get_input_embeddings()(token_ids)  # type: ignore[operator]
    noise = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(0)).to(embeddings.device)
    rounded = embeddings.float() * (1 + torch.finfo(embeddings.dtype).eps * noise)
    changed = model(inputs_embeds=rounded.to(embeddings.dtype), use_cache=False).logits[0, -len(logits) :].float()
    return _difference(changed, logits)


class SelfCheck:
    """Two prompts with the logits that a model computes for them without the engine."""

    def __init__(self, max_length: int) -> None:
        """`max_length`: the most tokens of a sequence of the job; no prompt is longer."""
        self._max_length = max_length
        self._expected: list[tuple[tuple[int, ...], Tensor]] = []  # float32 [1 + decoded, vocab] each
        self._noise = 0.0  # what one rounding of the embeddings changes, in units of the spread

    @torch.inference_mode()
    def record(self, model: nn.Module) -> None:
        """Keep the logits of a model that is whole and as it was loaded. Raises CheckpointError for
        one that the engine cannot run."""
        if is_own(model):
            return
        for length in self._lengths(model):
            tokens = tuple((7919 * i + 13) % int(model.config.vocab_size) for i in range(length))  # type: ignore[union-attr, arg-type]
            model.set_attn_implementation("eager")  # type: ignore[operator]
            token_ids = torch.tensor([tokens], device=next(model.parameters()).device)
            logits = model(input_ids=token_ids, use_cache=False).logits[0, -1 - _NUM_DECODED :].float()
            self._expected.append((tokens, logits.cpu()))
            if len(self._expected) == 1 and next(model.parameters()).dtype != torch.float32:
                self._noise = _rounding_noise(model, token_ids, logits)

    def compare(self, runner: ModelRunner, rows: StepRows, *, is_int8: bool = False) -> None:
        """Run the prompts in the engine. All ranks of a replica call this together.

        `is_int8`: weights were rounded to 8 bits since `record`.

        Raises CheckpointError, which names model_type and difference, where the logits differ.
        """
        kept = self._expected[-runner.num_slots :]
        if not kept:
            return
        run = _PromptRun([tokens for tokens, _ in kept], rows, runner.window_size)
        longest = max(len(tokens) for tokens, _ in kept)
        runner.warm_up(lambda _: run.steps(), num_slots=len(kept), max_length=longest, read=run.take)
        for own, (tokens, expected) in zip(run.logits, kept, strict=True):
            # The tokens that are decoded are in the trie as well.
            self._check(runner, len(tokens), torch.stack(own), torch.cat([expected, expected[1:]]), is_int8)

    def _lengths(self, model: nn.Module) -> list[int]:
        from tirazh.model.foreign_network import trace_layers

        windows = [shape.rules.window or 0 for shape in trace_layers(model)]
        longest = max(_LONG, max((w for w in windows if w < self._max_length), default=0) + _BEYOND_WINDOW)
        num_weights = sum(weight.numel() for weight in model.parameters())
        num_heads = int(getattr(model.config, "num_attention_heads", 1))
        if longest > _LONG and (num_weights * longest > _MAX_PRODUCTS or num_heads * longest**2 > _MAX_SCORES):
            logger.info("the sliding windows of this model are too long to be compared with transformers at its start")
            longest = _LONG
        lengths = sorted({min(length, self._max_length) for length in (_SHORT, longest)})
        return [length for length in lengths if length > _NUM_DECODED]

    def _check(self, runner: ModelRunner, num_tokens: int, own: Tensor, expected: Tensor, is_int8: bool) -> None:
        tolerance = _MAX_TOLERANCE if is_int8 else tolerance_of(runner.dtype, self._noise)
        difference = _difference(own, expected)
        if not difference <= tolerance:
            config: Any = runner.model.config
            raise CheckpointError(
                f"model_type {config.model_type} cannot be run: on a prompt of {num_tokens} tokens the "
                f"engine's logits differ from those of transformers by {difference:.2g} of their spread, and "
                f"{tolerance:g} is allowed"
            )


class _PromptRun:
    """The steps in which prompts run side by side, and the logits that belong to each of them.

    A prompt's last two tokens run twice: in a label trie behind the others, beside a token that they
    must not see, and in a decode step each.
    """

    def __init__(self, prompts: Sequence[tuple[int, ...]], rows: StepRows, window: int) -> None:
        self._prompts, self._rows, self._window = prompts, rows, window
        self.logits: list[list[Tensor]] = [[] for _ in prompts]
        self._readers: list[int | None] = []  # of every row of logits in the current step, the prompt

    def take(self, logits_RV: Tensor) -> None:
        """Take the logits of the current step."""
        for prompt, row in zip(self._readers, logits_RV.cpu(), strict=True):
            if prompt is not None:
                self.logits[prompt].append(row)

    def steps(self) -> Iterator[Step]:
        """Yield the steps; `take` is called after each."""
        done = [0] * len(self._prompts)
        while any(count < len(prompt) - _NUM_DECODED for count, prompt in zip(done, self._prompts, strict=True)):
            yield self._prefill(done)
        for index in range(_NUM_DECODED):
            builder = StepBuilder("decode", self._rows.decode)
            for slot, prompt in enumerate(self._prompts):
                position = len(prompt) - _NUM_DECODED + index
                builder.add(slot, (prompt[position],), position)
                builder.request_logits(slot, 1)
            self._readers = list(range(len(self._prompts)))
            yield builder.build(())

    def _prefill(self, done: list[int]) -> Step:
        """The next chunk of every prompt that has one, as many as fit; counts them as done."""
        num_rows = rows_of_prefill(self._rows.prefill, self._window, _trie(self._prompts[0]).num_nodes)
        builder = StepBuilder("prefill", num_rows)
        fresh, self._readers = [], []
        for slot, prompt in enumerate(self._prompts):
            left = len(prompt) - _NUM_DECODED - done[slot]
            length = min(left, chunk_length(done[slot], window=self._window, max_length=self._rows.prefill))
            is_last, trie = length == left, _trie(prompt)
            if not length or not builder.has_room(length + trie.num_nodes):
                continue
            if not done[slot]:
                fresh.append(FreshSlot(slot, uses_prefix=False))
            builder.add(slot, prompt[done[slot] : done[slot] + length], done[slot])
            done[slot] += length
            if is_last:
                builder.add_trie(slot, trie, done[slot])
                builder.request_logits(slot, 1 + trie.num_nodes)
                self._readers += [slot, slot, None, slot]
        return builder.build(tuple(fresh))


def _trie(prompt: tuple[int, ...]) -> LabelTrie:
    """The last two tokens of a prompt, one behind the other, and beside the first of them another."""
    first, second = prompt[-_NUM_DECODED:]
    return LabelTrie(token_ids=(first, prompt[0], second), parents=(-1, -1, 0), depths=(0, 0, 1), paths=())
