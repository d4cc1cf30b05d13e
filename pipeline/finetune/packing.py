"""Packs documents into sequences of at most `seq_length` inputs. Pure arithmetic on lengths.

A span of n tokens has n - 1 inputs, each of which predicts the next token. A document that is cut
continues with the token it was cut at, so that this token is predicted once too: a cut loses no
target. The spans of a `stream` are joined: a sequence is one text, and the last token of a span
predicts the first of the next. Those of `whole` are packed: they share a sequence, and nothing else.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate

Span = tuple[int, int]
Packer = Callable[[Sequence[int], Sequence[int], int], list[list[Span]]]


def pack_stream(lengths: Sequence[int], order: Sequence[int], seq_length: int) -> list[list[Span]]:
    """Concatenate all documents in `order` and cut anywhere, as the original code does.

    Every token but the very first is predicted exactly once. Attention crosses document boundaries.
    """
    starts = [0, *accumulate(lengths)]
    ends = list(accumulate(lengths[document] for document in order))  # in the concatenated text
    total = ends[-1] if ends else 0
    sequences = []
    for start in range(0, total - 1, seq_length):
        end = min(start + seq_length + 1, total)
        index = bisect_right(ends, start)
        spans = []
        while start < end:
            cut = min(ends[index], end)
            shift = (
                starts[order[index] + 1] - ends[index]
            )  # from an offset in the concatenated text to one in the tokens
            if cut > start:
                spans.append((start + shift, cut + shift))
            start, index = cut, index + 1
        sequences.append(spans)
    return sequences


def pack_whole(lengths: Sequence[int], order: Sequence[int], seq_length: int) -> list[list[Span]]:
    """Put as many documents as fit, in `order`, into each sequence.

    Only documents longer than a sequence are cut. Attention does not cross document boundaries.
    """
    sequences: list[list[Span]] = []
    free = 0
    for span in _spans(lengths, order, seq_length):
        size = span[1] - span[0] - 1
        if size > free or not sequences:
            sequences.append([])
            free = seq_length
        sequences[-1].append(span)
        free -= size
    return sequences


def pack_single(lengths: Sequence[int], order: Sequence[int], seq_length: int) -> list[list[Span]]:
    """Give every document a sequence of its own; one longer than a sequence becomes several."""
    return [[span] for span in _spans(lengths, order, seq_length)]


def _spans(lengths: Sequence[int], order: Sequence[int], seq_length: int) -> list[Span]:
    starts = [0, *accumulate(lengths)]
    spans = []
    for document in order:
        start, stop = starts[document], starts[document + 1]
        while stop - start > seq_length + 1:
            spans.append((start, start + seq_length + 1))
            start += seq_length
        spans.append((start, stop))
    return spans


PACKERS: dict[str, Packer] = {"stream": pack_stream, "whole": pack_whole, "single": pack_single}
