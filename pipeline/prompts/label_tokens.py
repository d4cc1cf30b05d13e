"""The tokens of a job's labels: what the text of a prompt and a label has more than that of the prompt.

A label follows its prompt after one space. Its tokens are those of the whole text less those of the
prompt, the rule of lm-evaluation-harness (`_encode_pair`), because a tokenizer may treat a text that begins
with a space in another way than a space inside of one. They are computed once for a job; where they could
depend on a row, the end of each prompt is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tokenizers import decoders

from tirazh.errors import RequestError, RowError
from tirazh.model.tokenizer import Tokenizer

# Endings of every class of characters that tokenizers treat differently.
_PROMPT_ENDS = ("я", "z", "7", "»", "-", ":", ")", ".", "é", "漢", "\U0001f642", "\u2603", "\u0301")
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
class LabelBoundary:
    """What a prompt's end must not change: the tokens `ids` of `words` after it. The last
    `num_characters` characters of a prompt decide."""

    words: tuple[str, ...]
    ids: tuple[Ids, ...]
    num_characters: int
    _known: dict[str, bool] = field(default_factory=dict, compare=False, repr=False)

    def check(self, prompt: str, tokenizer: Tokenizer) -> None:
        """Raise RowError for a prompt after which the labels have other tokens."""
        end = prompt[-self.num_characters :]
        if end and end not in self._known:
            self._known[end] = tuple(encode_pairs(tokenizer.encode_many, end, self.words)) == self.ids
        if end and not self._known[end]:
            raise RowError(
                f"after a prompt that ends with {end[-12:]!r} the labels have other tokens than after other prompts; "
                "let --template end with fixed text"
            )


def label_words(words: str) -> str:
    """Return a label's words as they continue a prompt: after one space."""
    return " " + words.strip()


def encode_pairs(encode: Encode, prompt: str, words: Sequence[str]) -> list[Ids]:
    """Return the tokens of each label after a prompt that does not end in white space."""
    head, *wholes = encode([prompt, *(prompt + label_words(each) for each in words)])
    return [tuple(whole[len(head) :]) for whole in wholes]


def encode_labels(labels: Mapping[str, str], encode: Encode, prompt: str) -> tuple[Ids, ...]:
    """Return the tokens of every label after `prompt`.

    Raises RequestError for labels without tokens and for two with the same ones.
    """
    ids = encode_pairs(encode, prompt, list(labels.values()))
    first: dict[Ids, str] = {}
    for label, tokens in zip(labels, ids, strict=True):
        if not tokens:
            raise RequestError(f"--labels: the words of {label!r} have no tokens; give other words")
        other = first.setdefault(tokens, label)
        if other != label:
            raise RequestError(
                f"--labels: the words of {other!r} and {label!r} have the same tokens; give other words to one of them"
            )
    return tuple(ids)


def find_boundary(
    labels: Mapping[str, str],
    ids: Sequence[Ids],
    tokenizer: Tokenizer,
    *,
    encode: Encode,
    fill: Callable[[str], str],
    ends_with_row: bool,
) -> LabelBoundary | None:
    """Return what to check in every row; None where the labels' tokens are the same after any prompt.

    `encode` tokenises rendered prompts, `fill` renders one with a text. `ends_with_row`: a prompt may end
    with a row's own text, and not with that of the template.
    """
    words = tuple(labels.values())[:_MAX_COMPARED]
    checked = LabelBoundary(words, tuple(ids[: len(words)]), _FAR)
    if ends_with_row:
        return checked if _joins_words(tokenizer) else replace(checked, num_characters=_NEAR)
    is_same = all(tuple(encode_pairs(encode, fill(end), words)) == checked.ids for end in _PROMPT_ENDS)
    return None if is_same else checked


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


def _joins_words(tokenizer: Tokenizer) -> bool:
    """Whether a token of the vocabulary continues a text behind a space."""
    vocabulary: Mapping[str, int] = tokenizer.rust.get_vocab(with_added_tokens=False)
    spaces = "".join(_SPACES)
    return any(space in name.lstrip(spaces) for name in vocabulary for space in _SPACES)
