"""The few-shot examples of classify: chosen once for a job, and written as the head of every prompt.

At least a quarter of the context stays free for the text of a row, whatever the examples are. The sample of the input
that a plan measures does not decide it: an input to which rows are added would get other examples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tirazh.errors import InputError, RequestError
from tirazh.model.tokenizer import Tokenizer
from tirazh.pipeline.prompts.encode import PromptConfig, PromptWriter
from tirazh.pipeline.prompts.label_examples import BETWEEN_EXAMPLES, Example, empty_prompt, read_examples, separator_of
from tirazh.pipeline.prompts.nearest_shots import MAX_ALL_CHARACTERS, NearestShots
from tirazh.pipeline.prompts.shot_choice import Selection, choose_by_tokens, choose_shots, distinct, orders_of
from tirazh.pipeline.spec import ClassifySpec
from tirazh.pipeline.storage.errors import show_uri

# Examples leave 1 / TEXT_SHARE of the context to the text of a row.
TEXT_SHARE = 4
MAX_SHOWN_ROWS = 20
_MAX_NAMED_LABELS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class FewShot:
    """The few-shot examples of a job.

    `heads` are the texts before every prompt, one for each order of the examples, without the `separator` that follows
    them; one empty text without examples. `chosen` are the rows of the file that were taken, from 1, in file order.
    `labels` has, for each question, the number of examples of each label. `tokens` are those of the longest head.
    `notes` are sentences about what was asked for and is not there. `nearest` are the examples from which every row
    takes its own; then the heads are empty.
    """

    heads: tuple[str, ...] = ("",)
    separator: str = BETWEEN_EXAMPLES
    chosen: tuple[int, ...] = ()
    labels: tuple[tuple[str, dict[str, int]], ...] = field(default=(), compare=False)
    tokens: int = 0
    notes: tuple[str, ...] = ()
    nearest: NearestShots | None = None

    def summary(self) -> dict[str, Any] | None:
        """The examples in figures, for plan, manifest and report; None without examples."""
        if self.nearest is not None:
            return {"selection": "nearest", "examples_per_row": self.nearest.count, "examples": len(self.nearest.texts)}
        if not self.chosen:
            return None
        by_question = dict(self.labels)
        return {
            "examples": len(self.chosen),
            "rows": list(self.chosen[:MAX_SHOWN_ROWS]),
            "tokens": self.tokens,
            "orders": len(self.heads),
            "examples_per_label": by_question.get("", by_question),
        }


def build_heads(spec: ClassifySpec, examples: bytes | None, config: PromptConfig, tokenizer: Tokenizer) -> FewShot:
    """Choose the examples in `examples`, the content of the file, and write the heads of the prompts.

    `config` is that of prompts without examples. Its `reserved_tokens` are those of everything that follows the
    rendered template. Raises InputError for a file that cannot be used or has too few examples, and RequestError where
    they leave less than 1 / TEXT_SHARE of the context to the text of a row.
    """
    if spec.examples is None or examples is None or spec.head is not None:
        return FewShot()
    writer = PromptWriter(replace(config, boundary=None), tokenizer)
    separator = separator_of(writer)
    asked = spec.asked
    found = read_examples(spec.examples, examples, asked, writer)
    if not found:
        if spec.shots is not None:
            raise _too_few(spec, found, found)
        return FewShot(separator=separator)
    if spec.shot_selection == "nearest":
        return FewShot(separator=separator, nearest=_nearest(spec, found, separator))
    space = config.seq_length - config.reserved_tokens - len(writer.encode([empty_prompt(writer)])[0])
    room = _Room(spec, writer, separator, found, space - config.seq_length // TEXT_SHARE, config.seq_length)
    chosen = room.choose()
    heads = tuple(separator.join(example.written for example in order) for order in room.orders(chosen))
    counts = [Counter(example.labels[place] for example in chosen) for place in range(len(asked))]
    return FewShot(
        heads=heads,
        separator=separator,
        chosen=tuple(sorted(example.number for example in chosen)),
        labels=tuple(
            (question.name, {label.name: count[label.name] for label in question.labels})
            for question, count in zip(asked, counts, strict=True)
        ),
        tokens=max(map(len, writer.encode(heads))),
        notes=(*_notes(spec, found, counts), *_orders_note(len(heads), len(chosen), spec)),
    )


@dataclass(frozen=True, slots=True)
class _Room:
    """The space for examples: `tokens` in a context of `seq_length`. `found` are all examples of the file."""

    spec: ClassifySpec
    writer: PromptWriter
    separator: str
    found: list[Example]
    tokens: int
    seq_length: int

    def choose(self) -> list[Example]:
        """Choose the examples. Raises InputError or RequestError."""
        if self.spec.shot_tokens is not None:
            return self._by_budget(self.spec.shot_tokens)
        drawn = distinct(self.found, self.spec.seed)
        if self.spec.shots is not None and len(drawn) < self.spec.shots:
            raise _too_few(self.spec, self.found, drawn)
        if self.spec.shots is not None:
            chosen = self._choose(drawn, self.spec.shots)
        else:
            # Equal examples in another order would be the same head.
            chosen = self.found if self.spec.permutations == 1 else drawn
        tokens = self._tokens_of(chosen)
        if tokens > self.tokens:
            raise self._too_long(drawn, len(chosen), tokens)
        return chosen

    def orders(self, chosen: Sequence[Example]) -> list[list[Example]]:
        """The orders of the chosen examples, one for each head."""
        if self.spec.shots is None and self.spec.shot_tokens is None and self.spec.permutations == 1:
            return [list(chosen)]  # the whole file, as it is
        return orders_of(chosen, self.spec.permutations, self.spec.seed)

    def _choose(self, drawn: Sequence[Example], count: int) -> list[Example]:
        return choose_shots(drawn, count, selection=self._selection, seed=self.spec.seed)

    def _by_budget(self, budget: int) -> list[Example]:
        most = min(budget, self.tokens)
        drawn = distinct(self.found, self.spec.seed)
        own = self._lengths(drawn)

        def fits(some: Sequence[Example]) -> bool:
            return sum(own[example.content] for example in some) <= most

        chosen = choose_by_tokens(drawn, fits, selection=self._selection, seed=self.spec.seed)
        # The tokens of a joined text may be more than those of its pieces.
        while chosen and self._tokens_of(chosen) > most:
            chosen.pop()
        if not chosen:
            shortest = min(own.values())
            raise RequestError(
                f"no example fits: the shortest of --examples has {shortest} tokens, and there is space for {most} "
                f"(--shot-tokens {budget}; {self._explanation}); give a larger one, or shorter examples"
            )
        return chosen

    @property
    def _selection(self) -> Selection:
        assert self.spec.shot_selection != "nearest", "each row chooses its own examples"
        return self.spec.shot_selection

    @property
    def _explanation(self) -> str:
        return (
            f"of the sequence length of {self.seq_length} tokens the template, the labels and a text of "
            f"{self.seq_length // TEXT_SHARE} tokens leave {max(0, self.tokens)}"
        )

    def _lengths(self, examples: Sequence[Example]) -> dict[str, int]:
        ids = self.writer.encode([example.written + self.separator for example in examples])
        return {example.content: len(each) for example, each in zip(examples, ids, strict=True)}

    def _tokens_of(self, chosen: Sequence[Example]) -> int:
        texts = ["".join(example.written + self.separator for example in order) for order in self.orders(chosen)]
        return max(map(len, self.writer.encode(texts)))

    def _too_long(self, drawn: Sequence[Example], count: int, tokens: int) -> RequestError:
        own = self._lengths(drawn)
        for fitting in range(min(count - 1, len(drawn)), 0, -1):
            some = self._choose(drawn, fitting)
            if sum(own[example.content] for example in some) <= self.tokens:
                return RequestError(
                    f"the {count} examples have {tokens} tokens, but {self._explanation}; {fitting} examples fit, so "
                    f"give --shots {fitting} or a larger --seq-length"
                )
        return RequestError(
            f"the {count} examples have {tokens} tokens, but {self._explanation}, too few for one example; give "
            "shorter examples or a larger --seq-length"
        )


def _too_few(spec: ClassifySpec, found: Sequence[Example], drawn: Sequence[Example]) -> InputError:
    different = " different" if len(drawn) < len(found) else ""
    return InputError(
        f"--examples {show_uri(spec.examples or '')} has {len(drawn)}{different} rows, fewer than --shots {spec.shots}"
    )


def _nearest(spec: ClassifySpec, found: Sequence[Example], separator: str) -> NearestShots:
    drawn = distinct(found, 0)
    assert spec.shots is not None, "checked with the settings"
    if not any(example.text.strip() for example in drawn):
        raise InputError(f"--examples {show_uri(spec.examples or '')} has no text in any row")
    if len(drawn) < spec.shots:
        raise _too_few(spec, found, drawn)
    texts, written = (tuple(example.text for example in drawn), tuple(example.written for example in drawn))
    shots = NearestShots(spec.shots, texts, written, separator)
    if shots.num_characters > MAX_ALL_CHARACTERS:
        raise InputError(
            f"--examples {show_uri(spec.examples or '')} has {shots.num_characters:,} characters of text; with "
            f"--shot-selection nearest at most {MAX_ALL_CHARACTERS:,} are compared, so give fewer rows"
        )
    return shots


def _notes(spec: ClassifySpec, found: Sequence[Example], counts: Sequence[Counter[str]]) -> list[str]:
    """Sentences about labels without an example, and with fewer than others although a balanced choice was asked."""
    notes = []
    for place, (question, count) in enumerate(zip(spec.asked, counts, strict=True)):
        of = f" of the question {question.name}" if question.name else ""
        names = [label.name for label in question.labels]
        there = {example.labels[place] for example in found}
        absent = [name for name in names if name not in there]
        if absent:
            notes.append(f"--examples has no example of {_named(absent)}{of}")
        untaken = [name for name in names if name in there and not count[name]]
        if untaken:
            notes.append(f"no example of {_named(untaken)}{of} was taken")
        most = max(count.values())
        few = [name for name in names if 0 < count[name] < most - 1]
        if few and spec.shots is not None and spec.shot_selection == "balanced":
            notes.append(f"--examples has too few examples of {_named(few)}{of}, so there are more of the other labels")
    return notes


def _orders_note(there: int, chosen: int, spec: ClassifySpec) -> list[str]:
    if there == spec.permutations:
        return []
    return [
        f"{chosen} examples have only {there} orders, which are averaged instead of --permutations {spec.permutations}"
    ]


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:_MAX_NAMED_LABELS]))
    return shown if len(names) <= _MAX_NAMED_LABELS else f"{shown} and {len(names) - _MAX_NAMED_LABELS} more labels"
