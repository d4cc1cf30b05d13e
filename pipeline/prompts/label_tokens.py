"""The tokens of a job's labels: what the text of a prompt and a label has more than that of the prompt.

A label's words follow their prompt after one space. Their tokens are those of the whole text less those of the
prompt, the rule of lm-evaluation-harness (`_encode_pair`), because a tokenizer may treat a text that begins
with a space in another way than a space inside of one. They are computed once for a job; where they could
depend on a row, the end of each prompt is checked.

With several questions the prompt of a question is the row's prompt and the question's suffix. Suffix and words are
then one continuation of the row's prompt. It must leave the tokens of that prompt as they are, and its own tokens are
those that the question would have if it were asked alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tokenizers import decoders

from tirazh.errors import RequestError, RowError
from tirazh.model.tokenizer import Tokenizer

# Endings of every class of characters that tokenizers treat differently.
PROMPT_ENDS = ("я", "z", "7", "»", "-", ":", ")", ".", "é", "漢", "\U0001f642", "\u2603", "\u0301")
# More labels than these are compared after one prompt only; a tokenizer that depends on the prompt shows
# it with any of them.
_MAX_COMPARED = 64
# A tokenizer without tokens that cross from one word to the next looks at the last character at most.
_FAR, _NEAR = 64, 1
_SPACES = ("\u0120", "\u2581", " ")  # how byte-level and SentencePiece vocabularies write a space
_LINE_BREAK_BYTE = "<0x0A>"  # of SentencePiece vocabularies with byte fallback

Ids = tuple[int, ...]
Encode = Callable[[Sequence[str]], list[list[int]]]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A text that is scored: `words` of the label `label`. The name of its question and the question's suffix are empty
    in a job with --labels."""

    label: str
    words: str
    question: str = ""
    suffix: str = ""

    @property
    def flag(self) -> str:
        """The setting that the label comes from."""
        return f"--questions {self.question}" if self.question else "--labels"


@dataclass(frozen=True, slots=True)
class LabelTokens:
    """The tokens of candidates.

    `entries` are the different continuations of a prompt, of which the first `starts[e]` tokens are a suffix.
    `places[c]` is the entry of candidate c. `texts` and `ids` are some continuations as texts and their tokens, which
    are compared after other prompts.
    """

    entries: tuple[Ids, ...]
    starts: tuple[int, ...]
    places: tuple[int, ...]
    texts: tuple[str, ...]
    ids: tuple[Ids, ...]

    @property
    def lengths(self) -> tuple[int, ...]:
        """The number of tokens of each candidate's words."""
        return tuple(len(self.entries[place]) - self.starts[place] for place in self.places)

    def is_same_after(self, prompt: str, encode: Encode) -> bool:
        """Whether the continuations have the same tokens after another prompt."""
        return _continuations(encode, prompt, self.texts, has_suffix=any(self.starts)) == list(self.ids)


@dataclass(frozen=True, slots=True)
class LabelBoundary:
    """What a prompt's end must not change: the tokens of the labels after it. The last `num_characters` characters of
    a prompt decide."""

    tokens: LabelTokens
    num_characters: int
    _known: dict[str, bool] = field(default_factory=dict, compare=False, repr=False)

    def check(self, prompt: str, tokenizer: Tokenizer) -> None:
        """Raise RowError for a prompt after which the labels have other tokens."""
        end = prompt[-self.num_characters :]
        if end and end not in self._known:
            self._known[end] = self.tokens.is_same_after(end, tokenizer.encode_many)
        if end and not self._known[end]:
            raise RowError(
                f"after a prompt that ends with {end[-12:]!r} the labels have other tokens than after other prompts; "
                "let --template end with fixed text"
            )


def label_words(words: str) -> str:
    """Return a label's words as they continue a prompt: after one space."""
    return " " + words.strip()


def encode_labels(candidates: Sequence[Candidate], encode: Encode, prompt: str) -> LabelTokens:
    """Return the tokens of every candidate after `prompt`.

    Raises RequestError for words without tokens, for two labels of a question with the same ones, and for a suffix that
    would change the tokens of the prompt.
    """
    suffixes = list(dict.fromkeys(each.suffix for each in candidates))
    has_suffix = suffixes != [""]
    behind = dict(zip(suffixes, _continuations(encode, prompt, suffixes, has_suffix=has_suffix), strict=True))
    texts = [each.suffix + label_words(each.words) for each in candidates]
    wholes = _continuations(encode, prompt, texts, has_suffix=has_suffix)
    entries: dict[Ids, tuple[int, int]] = {}
    first: dict[tuple[str, Ids], str] = {}
    places = []
    for each, whole in zip(candidates, wholes, strict=True):
        suffix = behind[each.suffix]
        if suffix is None or whole is None:
            raise RequestError(
                f"{each.flag}: the tokens of the suffix {each.suffix!r} depend on the text before it; let --template "
                "end with fixed text"
            )
        # As if the question were asked alone: the tokens of prompt and suffix, and what the whole text has more.
        words, start = whole[len(suffix) :], len(suffix)
        _refuse_equal(each, words, first)
        place, known = entries.setdefault((*suffix, *words), (len(entries), start))
        if known != start:
            raise RequestError(
                f"{each.flag}: the suffix with the words {each.words!r} has the same tokens as another suffix and its "
                "words; change one of them"
            )
        places.append(place)
    compared = [text for text in suffixes if text] + texts[:_MAX_COMPARED]
    ids = [tokens or () for tokens in [*(behind[text] for text in suffixes if text), *wholes[:_MAX_COMPARED]]]
    starts = tuple(start for _, start in entries.values())
    return LabelTokens(tuple(entries), starts, tuple(places), tuple(compared), tuple(ids))


def _refuse_equal(candidate: Candidate, words: Ids, first: dict[tuple[str, Ids], str]) -> None:
    """Raise RequestError for words without tokens, or with those of other words of the question (`first`)."""
    if not words:
        raise RequestError(f"{candidate.flag}: the words of {candidate.label!r} have no tokens; give other words")
    other = first.get((candidate.question, words))
    first[candidate.question, words] = candidate.label
    if other is not None:
        labels = (
            f"{other!r} and {candidate.label!r}" if other != candidate.label else f"{other!r} and one of its aliases"
        )
        raise RequestError(
            f"{candidate.flag}: the words of {labels} have the same tokens; give other words to one of them"
        )


def find_boundary(
    tokens: LabelTokens,
    tokenizer: Tokenizer,
    *,
    encode: Encode,
    fill: Callable[[str], str],
    ends_with_row: bool,
    fixed_characters: int = 0,
) -> LabelBoundary | None:
    """Return what to check in every row; None where the labels' tokens are the same after any prompt.

    `encode` tokenises rendered prompts, `fill` renders one with a text. `ends_with_row`: a prompt may end
    with a row's own text, and not with that of the template; behind it are `fixed_characters` white space characters.
    """
    checked = LabelBoundary(tokens, _FAR)
    if ends_with_row:
        return checked if _joins_words(tokenizer) else replace(checked, num_characters=_NEAR + fixed_characters)
    return None if is_fixed(tokens, encode=encode, fill=fill) else checked


def is_fixed(tokens: LabelTokens, *, encode: Encode, fill: Callable[[str], str]) -> bool:
    """Whether the labels have the same tokens after prompts with texts of every class of characters."""
    return all(tokens.is_same_after(fill(end), encode) for end in PROMPT_ENDS)


def end_tokens(labels: Collection[Ids], tokenizer: Tokenizer, control_ids: Collection[int] = ()) -> Ids:
    """Return the tokens that may follow a finished label, for labels of which one begins another.

    These are the end tokens, tokens that begin with a line break, as follows a label in few-shot
    examples, and the control tokens of the template. Empty for other labels: their scores say enough.
    """
    known = set(labels)
    if not any(label[:end] in known for label in known for end in range(1, len(label))):
        return ()
    is_byte_level = isinstance(tokenizer.rust.decoder, decoders.ByteLevel)
    breaks = ("\u010a",) if is_byte_level else ("\n", _LINE_BREAK_BYTE)
    vocabulary: Mapping[str, int] = tokenizer.rust.get_vocab(with_added_tokens=True)
    following = {token for name, token in vocabulary.items() if name.startswith(breaks)}
    return tuple(sorted(following.union(tokenizer.end_token_ids, control_ids)))


def _continuations(encode: Encode, prompt: str, texts: Sequence[str], *, has_suffix: bool) -> list[Ids | None]:
    """The tokens that each text adds to those of the prompt; None where it changes those of the prompt although there
    is a suffix, whose prompt is computed once for all questions."""
    head, *wholes = encode([prompt, *(prompt + text for text in texts)])
    return [tuple(whole[len(head) :]) if not has_suffix or whole[: len(head)] == head else None for whole in wholes]


def _joins_words(tokenizer: Tokenizer) -> bool:
    """Whether a token of the vocabulary continues a text behind a space."""
    vocabulary: Mapping[str, int] = tokenizer.rust.get_vocab(with_added_tokens=False)
    spaces = "".join(_SPACES)
    return any(space in name.lstrip(spaces) for name in vocabulary for space in _SPACES)
