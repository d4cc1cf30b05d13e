"""Chunked prefill: which chunks of which prompts share a prefill step.

A chunk ends where a window of its own prompt ends, so how a prompt is cut depends on that prompt
alone, and so do the bits of its results. Which chunks share a step is free to choose: they are
chosen to fill the step best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tirazh.model.engine.labels.trie import LabelTrie, SplitTrie
from tirazh.model.engine.prefix_caching.tree import PrefixRequest
from tirazh.model.engine.sequences import ActiveSequence, Slots, StepBuilder
from tirazh.model.requests import EmbedRequest, GenerateRequest, Request, ScoreRequest, TextScoreRequest
from tirazh.model.step import chunk_length


def build_prefill_step(
    slots: Slots, num_rows: int, trie: SplitTrie | None, *, window: int, max_chunk: int
) -> StepBuilder:
    """Lay out the prompt chunks, each of at most `max_chunk` tokens, that fill a step of `num_rows`
    rows best.

    The longest waiting prompt always gets a chunk. Does not change the sequences: `segments` of the
    result tell what was taken of each.
    """
    builder = StepBuilder("prefill", num_rows)
    waiting = [(slot, s) for slot, s in enumerate(slots) if s is not None and s.num_to_prefill]
    waiting.sort(key=lambda pair: pair[1].admission_number)
    chunks = [_next_chunks(sequence, num_rows, trie, window=window, max_chunk=max_chunk) for _, sequence in waiting]
    counts = best_filling([[chunk.end_row for chunk in each] for each in chunks], num_rows)
    for (slot, sequence), chunks_of_prompt, count in zip(waiting, chunks, counts, strict=True):
        start, is_text = sequence.num_cached, isinstance(sequence.request, TextScoreRequest)
        for chunk in chunks_of_prompt[:count]:
            if chunk.length:
                builder.add(slot, sequence.prompt[start : start + chunk.length], start)
            start += chunk.length
            if chunk.trie:
                builder.add_trie(slot, chunk.trie, start)
                builder.request_trie_logits(slot, chunk.trie)
            elif start == len(sequence.prompt) and _reads_last_token(sequence.request):
                builder.request_logits(slot, 1)
        if is_text and start > max(sequence.num_cached, sequence.first_scored_row):
            builder.request_logits(slot, start - max(sequence.num_cached, sequence.first_scored_row))
        if isinstance(sequence.request, EmbedRequest) and start > max(sequence.num_cached, sequence.first_pooled_row):
            builder.request_hidden(slot, start - max(sequence.num_cached, sequence.first_pooled_row))
    return builder


def _reads_last_token(request: Request | PrefixRequest) -> bool:
    """Whether the logits of a prompt's last token are read: the completion's first token is sampled from them."""
    return isinstance(request, GenerateRequest) or (isinstance(request, PrefixRequest) and request.is_whole)


@dataclass(frozen=True, slots=True)
class _PromptChunk:
    """`length` prompt tokens, followed by a piece of the label trie where the chunk ends a prompt that is to
    be scored; no tokens before the later pieces.

    Together with the prompt's earlier chunks in the same step they take `end_row` rows.
    """

    length: int
    trie: LabelTrie | None
    end_row: int


def _next_chunks(
    sequence: ActiveSequence, num_rows: int, trie: SplitTrie | None, *, window: int, max_chunk: int
) -> list[_PromptChunk]:
    """Return the next chunks of a prompt, as many as fit into a whole step."""
    chunks: list[_PromptChunk] = []
    start, end_row = sequence.num_cached, 0
    while start < len(sequence.prompt):
        length = min(len(sequence.prompt) - start, chunk_length(start, window=window, max_length=max_chunk))
        start += length
        is_scored = start == len(sequence.prompt) and isinstance(sequence.request, ScoreRequest)
        tree = trie.pieces[0].trie if trie and is_scored else None
        end_row += length + (tree.num_nodes if tree else 0)
        if end_row > num_rows:
            return chunks
        chunks.append(_PromptChunk(length, tree, end_row))
    for piece in sequence.later_pieces:
        end_row += piece.trie.num_nodes
        if end_row > num_rows:
            break
        chunks.append(_PromptChunk(0, piece.trie, end_row))
    return chunks


def best_filling(sizes: Sequence[Sequence[int]], capacity: int) -> list[int]:
    """Return how many chunks to take of every prompt so that they fill `capacity` rows best.

    `sizes[i]` are the rows of prompt i's first chunk, of its first two, …, each at most `capacity`.
    At least one chunk of prompt 0 is taken. Among equally good fillings the one that takes most of
    the first prompts wins.
    """
    if not sizes:
        return []
    # Subset sum over bit sets: bit r of reachable[i] says that prompts i, i + 1, … can take exactly
    # r rows.
    reachable, all_rows = [1], (1 << capacity + 1) - 1
    for options in reversed(sizes):
        without_this = reachable[-1]
        with_this = without_this
        for rows in options:
            with_this |= without_this << rows
        reachable.append(with_this & all_rows)
    reachable.reverse()
    # The highest bit is the fullest step. Walk the prompts in order and take the most chunks that
    # still lead to it.
    fits = max((reachable[1] << rows & all_rows for rows in sizes[0]), key=int.bit_length)
    left, chosen = fits.bit_length() - 1, []
    for index, options in enumerate(sizes):
        counts = range(len(options), 0 if index == 0 else -1, -1)
        rows_of = [0, *options]
        count = next(c for c in counts if rows_of[c] <= left and reachable[index + 1] >> left - rows_of[c] & 1)
        chosen.append(count)
        left -= rows_of[count]
    return chosen
