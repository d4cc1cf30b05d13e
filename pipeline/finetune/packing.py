"""Documents become sequences of at most `seq_length` inputs. Pure arithmetic on lengths; called by
`finetune/corpus.py`.

A sequence of n tokens has n - 1 inputs, each of which is to foretell the token behind it. A document that is cut goes
on with the token it was cut at, so that this token too is foretold once: no token is lost to a cut.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate

Span = tuple[int, int]
Packer = Callable[[Sequence[int], Sequence[int], int], list[list[Span]]]


def pack_stream(lengths: Sequence[int], order: Sequence[int], seq_length: int) -> list[list[Span]]:
    """All documents joined in `order` and cut anywhere, as the original does. Every token but the very first is
    foretold exactly once; attention crosses documents."""
    starts = [0, *accumulate(lengths)]
    ends = list(accumulate(lengths[document] for document in order))  # in the joined text
    total = ends[-1] if ends else 0
    sequences = []
    for begin in range(0, total - 1, seq_length):
        end = min(begin + seq_length + 1, total)
        place = bisect_right(ends, begin)
        pieces = []
        while begin < end:
            cut = min(ends[place], end)
            shift = starts[order[place] + 1] - ends[place]  # from a place in the joined text to one in the tokens
            if cut > begin:
                pieces.append((begin + shift, cut + shift))
            begin, place = cut, place + 1
        sequences.append(pieces)
    return sequences


def pack_whole(lengths: Sequence[int], order: Sequence[int], seq_length: int) -> list[list[Span]]:
    """As many documents in `order` as fit into a sequence, none of them cut but those too long for one."""
    sequences: list[list[Span]] = []
    room = 0
    for piece in _pieces(lengths, order, seq_length):
        size = piece[1] - piece[0]
        if size > room:
            sequences.append([])
            room = seq_length + 1
        sequences[-1].append(piece)
        room -= size
    return sequences


def pack_single(lengths: Sequence[int], order: Sequence[int], seq_length: int) -> list[list[Span]]:
    """A sequence for every document; one too long for a sequence becomes several."""
    return [[piece] for piece in _pieces(lengths, order, seq_length)]


def _pieces(lengths: Sequence[int], order: Sequence[int], seq_length: int) -> list[Span]:
    starts = [0, *accumulate(lengths)]
    pieces = []
    for document in order:
        start, stop = starts[document], starts[document + 1]
        while stop - start > seq_length + 1:
            pieces.append((start, start + seq_length + 1))
            start += seq_length
        pieces.append((start, stop))
    return pieces


PACKERS: dict[str, Packer] = {"stream": pack_stream, "whole": pack_whole, "single": pack_single}
