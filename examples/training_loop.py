"""The training loop of `train_embedded.py`: length-bucketed batches, one loss for text and labels, Muon, checkpoints.

The weights that compute are bfloat16 (2.5 times float32 on a CPU with AVX512-BF16; pass float32 where it is slower);
the optimizers work on float32 masters.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from model.gpt import RuGPT3ForCausalLM


@dataclass(frozen=True, slots=True)
class Example:
    """One training sequence. `label_start`: index of the label's first token, None in plain text; the last token of
    a labelled sequence is the end token."""

    token_ids: Sequence[int]
    label_start: int | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How long and how fast to train; times are wall-clock, shares are of the whole time."""

    minutes: float = 90.0
    batch_tokens: int = 4096
    learning_rate: float = 3e-3
    label_weight: float = 1.0  # of the labels' mean loss against the text's
    text_share: float = 1.0  # of the text's tokens whose loss is taken; logits are half of a small model's work
    warmup_share: float = 0.02
    decay_share: float = 0.6
    checkpoint_minutes: float = 10.0
    dtype: torch.dtype = torch.bfloat16


@dataclass
class Progress:
    """What a checkpoint remembers beside the weights; `curve` rows: minutes, tokens, text loss, label loss."""

    tokens: int = 0
    steps: int = 0
    seconds: float = 0.0
    curve: list[tuple[float, int, float, float]] = field(default_factory=list)


def build_batches(
    draw: Callable[[random.Random], Example], batch_tokens: int, rng: random.Random, pool: int = 1024
) -> Iterator[list[Example]]:
    """Endless batches of about `batch_tokens`, each of examples of like length, so that little is padding."""
    while True:
        batches: list[list[Example]] = [[]]
        for example in sorted((draw(rng) for _ in range(pool)), key=lambda e: len(e.token_ids)):
            if (len(batches[-1]) + 1) * len(example.token_ids) > batch_tokens and batches[-1]:
                batches.append([])
            batches[-1].append(example)
        rng.shuffle(batches)
        yield from batches


def batch_loss(model: RuGPT3ForCausalLM, batch: list[Example], text_share: float = 1.0) -> tuple[Tensor, Tensor]:
    """Mean loss of text tokens and of label tokens; logits are made only where a loss is taken."""
    length = max(len(example.token_ids) for example in batch)
    input_ids = torch.zeros(len(batch), length, dtype=torch.long)
    kind = torch.zeros(len(batch), length, dtype=torch.long)  # 0 padding, 1 text, 2 label
    for row, example in enumerate(batch):
        end = len(example.token_ids)
        input_ids[row, :end] = torch.tensor(example.token_ids)
        kind[row, :end] = 1
        if example.label_start is not None:
            kind[row, example.label_start : end - 1] = 2
    is_read = (kind[:, 1:] == 2) | (kind[:, 1:] == 1) & (torch.rand(len(batch), length - 1) < text_share)
    hidden = model.model(input_ids).last_hidden_state[:, :-1][is_read]
    losses = cross_entropy(model.lm_head(hidden).float(), input_ids[:, 1:][is_read], reduction="none")
    is_label = kind[:, 1:][is_read] == 2
    text_loss, label_loss = (losses[kept].sum() / kept.sum().clamp(min=1) for kept in (~is_label, is_label))
    return text_loss, label_loss


class Trainer:
    """A model, the float32 masters of its weights, and their optimizers."""

    def __init__(self, model: RuGPT3ForCausalLM, recipe: Recipe) -> None:
        self.model, self.recipe, self.progress = model.to(recipe.dtype), recipe, Progress()
        self.weights = dict(model.named_parameters())
        self.masters = {name: nn.Parameter(p.detach().float().clone()) for name, p in self.weights.items()}
        # Muon for the layers' matrices: about half the steps of AdamW at this size.
        matrices = {name for name, p in self.masters.items() if p.ndim == 2 and ".layers." in name}
        rate = recipe.learning_rate
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(
                [p for name, p in self.masters.items() if name in matrices],
                lr=rate,
                weight_decay=0.1,
                adjust_lr_fn="match_rms_adamw",
            ),
            torch.optim.AdamW(
                [p for name, p in self.masters.items() if name not in matrices],
                lr=rate,
                weight_decay=0.01,
                betas=(0.9, 0.98),
            ),
        ]

    def rate_factor(self) -> float:
        """Warm up, stay, then fall to zero as the time runs out."""
        done = self.progress.seconds / 60 / self.recipe.minutes
        rise = min(1.0, (done + 1e-4) / self.recipe.warmup_share)
        return max(0.0, min(rise, (1.0 - done) / self.recipe.decay_share))

    def step(self, batch: list[Example]) -> tuple[float, float]:
        """One update. Returns the losses of text and of labels."""
        text_loss, label_loss = batch_loss(self.model, batch, self.recipe.text_share)
        (text_loss + self.recipe.label_weight * label_loss).backward()  # type: ignore[no-untyped-call]
        for name, weight in self.weights.items():
            self.masters[name].grad = None if weight.grad is None else weight.grad.float()
            weight.grad = None
        torch.nn.utils.clip_grad_norm_(self.masters.values(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.recipe.learning_rate * self.rate_factor()
            optimizer.step()
        self._copy_masters()
        self.progress.steps += 1
        self.progress.tokens += sum(len(example.token_ids) for example in batch)
        return text_loss.item(), label_loss.item()

    def train(self, batches: Iterator[list[Example]], checkpoint: Path, on_checkpoint: Callable[[], None]) -> Progress:
        """Train until the recipe's time is used up; go on from `checkpoint` where it exists."""
        if checkpoint.exists():
            self._restore(checkpoint)
        began = saved_at = time.monotonic()
        began -= self.progress.seconds
        losses: list[tuple[float, float]] = []
        while self.progress.seconds < self.recipe.minutes * 60:
            losses.append(self.step(next(batches)))
            self.progress.seconds = time.monotonic() - began
            if time.monotonic() - saved_at > self.recipe.checkpoint_minutes * 60:
                self._checkpoint(checkpoint, losses)
                on_checkpoint()
                saved_at, losses = time.monotonic(), []
        self._checkpoint(checkpoint, losses)
        on_checkpoint()
        return self.progress

    @torch.no_grad()
    def _copy_masters(self) -> None:
        for name, weight in self.weights.items():
            weight.copy_(self.masters[name])

    def _checkpoint(self, path: Path, losses: list[tuple[float, float]]) -> None:
        done = self.progress
        if losses:
            text, label = (sum(column) / len(losses) for column in zip(*losses, strict=True))
            done.curve.append((round(done.seconds / 60, 1), done.tokens, round(text, 3), round(label, 3)))
        state = {
            "masters": self.masters,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "progress": asdict(done),
        }
        torch.save(state, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)

    def _restore(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        for name, master in self.masters.items():
            master.data.copy_(state["masters"][name])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.progress = Progress(**state["progress"])
        self._copy_masters()
