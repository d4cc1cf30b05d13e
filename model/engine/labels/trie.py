"""The labels of a job as a trie of tokens, so that tokens which labels share are computed once.

The nodes of the trie run behind the last prompt token with tree attention (`scoring.py`). A
label's last token is no node: its log-probability is read from the logits of the token before it.
Where the labels' ends are scored too, it is one, because what follows it is read from its logits.
The trie of many labels is split into pieces, because a segment's mask grows with the square of its nodes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tirazh.errors import RequestError
from tirazh.model.requests import EngineJob

# Nodes that run in one segment. At 512 its float32 mask takes 1 MiB and its rows fill a prefill step on a CPU;
# the nodes that several pieces need are then few.
MAX_NODES = 512


@dataclass(frozen=True, slots=True)
class LabelTrie:
    """Nodes in an order in which parents precede their children.

    `token_ids[i]` continues node `parents[i]` (-1: the prompt). `depths[i]` is the number of nodes
    between node i and the prompt. `paths[l]` lists label l's tokens as (node whose logits predict
    the token, -1 for the prompt's last token; token id), without those that are not scored. Where a
    label's end is scored, that is that one of the tokens `ends` follows it, `leaves[l]` is the node of
    label l's last token. `unread` are the nodes whose logits no score needs, -1 among them for the prompt.
    """

    token_ids: tuple[int, ...]
    parents: tuple[int, ...]
    depths: tuple[int, ...]
    paths: tuple[tuple[tuple[int, int], ...], ...]
    ends: tuple[int, ...] = ()
    leaves: tuple[int, ...] = ()
    unread: frozenset[int] = frozenset()

    @property
    def num_nodes(self) -> int:
        """Rows that the trie takes in a step."""
        return len(self.token_ids)

    @property
    def read_nodes(self) -> list[int]:
        """The nodes whose logits are read, in their order; -1 is the prompt."""
        return [node for node in range(-1, self.num_nodes) if node not in self.unread]

    @property
    def num_read(self) -> int:
        """Rows of logits that a prompt's scores need."""
        return 1 + self.num_nodes - len(self.unread)

    @property
    def height(self) -> int:
        """Nodes on the longest path: how many positions the trie needs behind a prompt."""
        return 1 + max(self.depths, default=-1)


@dataclass(frozen=True, slots=True)
class TriePiece:
    """Some nodes of the labels' trie, with all their ancestors; they run in one segment.

    `trie.paths[i]` holds tokens of label `labels[i]`, and `trie.leaves[i]`, if there are any, is its leaf. The tokens
    that follow the prompt are in the paths of the first piece for all labels, and in no other piece: only the step
    of the first piece has the logits of the prompt's last token.
    """

    trie: LabelTrie
    labels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SplitTrie:
    """The trie of `num_labels` labels in pieces, at least one, which run behind the same prompt one after another.

    `height`: positions that the trie needs behind a prompt.
    """

    pieces: tuple[TriePiece, ...]
    num_labels: int
    height: int

    @property
    def max_nodes(self) -> int:
        """Rows that the largest piece takes in a step."""
        return max(piece.trie.num_nodes for piece in self.pieces)

    def later_pieces(self, num_done: int) -> tuple[TriePiece, ...]:
        """The pieces that run behind a prompt when `num_done` have run; the first one runs with the prompt's end."""
        return self.pieces[max(1, num_done) :]


def build_trie(labels: Sequence[Sequence[int]], ends: Sequence[int] = (), starts: Sequence[int] = ()) -> LabelTrie:
    """Merge the labels' tokens into a trie that scores also their ends, if there are any, and of label l
    the tokens from `starts[l]` on (default: all). Raises RequestError for a label without tokens that are
    scored, and for two equal labels."""
    starts = starts or [0] * len(labels)
    if len(starts) != len(labels) or min(starts, default=0) < 0:
        raise RequestError(f"label_starts must hold a number of 0 or more for each of {len(labels)} labels")
    nodes: dict[tuple[int, ...], int] = {(): -1}
    token_ids: list[int] = []
    paths = []
    for label, start in zip(labels, starts, strict=True):
        if start >= len(label):
            raise RequestError("a label has no tokens that are scored" if label else "a label has no tokens")
        for end in range(1, len(label) + bool(ends)):
            key = tuple(label[:end])
            if key not in nodes:
                nodes[key] = len(token_ids)
                token_ids.append(key[-1])
        paths.append(tuple((nodes[tuple(label[:end])], label[end]) for end in range(start, len(label))))
    if len({tuple(label) for label in labels}) < len(labels):
        raise RequestError("two labels have the same tokens")
    keys = sorted((key for key in nodes if key), key=lambda key: nodes[key])
    parents = tuple(nodes[key[:-1]] for key in keys)
    leaves = tuple(nodes[tuple(label)] for label in labels) if ends else ()
    depths = tuple(len(key) - 1 for key in keys)
    unread = frozenset(range(-1, len(keys))) - {node for path in paths for node, _ in path} - set(leaves)
    return LabelTrie(tuple(token_ids), parents, depths, tuple(paths), tuple(ends), leaves, unread)


def job_trie(job: EngineJob, num_tokens: int) -> SplitTrie:
    """Build the trie of a job's labels for a model with `num_tokens` token ids. Raises RequestError."""
    ends = [token for token in job.label_ends if token < num_tokens]
    return split_trie(job.labels, ends, job.label_starts, max_nodes=MAX_NODES)


def split_trie(
    labels: Sequence[Sequence[int]],
    ends: Sequence[int] = (),
    starts: Sequence[int] = (),
    *,
    max_nodes: int,
) -> SplitTrie:
    """Build the trie of `build_trie` in pieces of at most `max_nodes` nodes; a longer label is a piece of its own.

    Raises RequestError as `build_trie`.
    """
    whole = build_trie(labels, ends, starts)
    if whole.num_nodes <= max_nodes:
        return SplitTrie((TriePiece(whole, tuple(range(len(labels)))),), len(labels), whole.height)
    starts = starts or [0] * len(labels)
    pieces = []
    for group in _groups(labels, has_ends=bool(ends), max_nodes=max_nodes):
        trie = build_trie([labels[index] for index in group], ends, [starts[index] for index in group])
        pieces.append(TriePiece(trie, tuple(group)))
    firsts = {index: label[0] for index, label in enumerate(labels) if not starts[index]}
    return SplitTrie((_with_firsts(pieces[0], firsts), *map(_without_firsts, pieces[1:])), len(labels), whole.height)


def sum_terms(logprobs: Sequence[float], trie: LabelTrie) -> list[float]:
    """Return the log-likelihood of every path, given the terms of one prompt (`scoring.py`): those of the
    paths, one behind another, and then those of the leaves."""
    terms = iter(logprobs)
    scores = [sum(itertools.islice(terms, len(path))) for path in trie.paths]
    return [score + end for score, end in itertools.zip_longest(scores, terms, fillvalue=0.0)]


def _groups(labels: Sequence[Sequence[int]], *, has_ends: bool, max_nodes: int) -> list[list[int]]:
    """The labels' indices in groups whose tries have at most `max_nodes` nodes each, in the order of their tokens."""
    groups: list[list[int]] = [[]]
    nodes: set[tuple[int, ...]] = set()
    for index in sorted(range(len(labels)), key=lambda index: tuple(labels[index])):
        label = tuple(labels[index])
        own = {label[:end] for end in range(1, len(label) + has_ends)}
        if groups[-1] and len(nodes | own) > max_nodes:
            groups.append([])
            nodes = set()
        groups[-1].append(index)
        nodes |= own
    return groups


def _with_firsts(piece: TriePiece, firsts: dict[int, int]) -> TriePiece:
    """The piece with the first tokens of all other labels too: `firsts` are those that are scored, by label."""
    others = sorted(firsts.keys() - set(piece.labels))
    paths = (*piece.trie.paths, *(((-1, firsts[index]),) for index in others))
    unread = piece.trie.unread - {-1} if firsts else piece.trie.unread
    return TriePiece(replace(piece.trie, paths=paths, unread=unread), (*piece.labels, *others))


def _without_firsts(piece: TriePiece) -> TriePiece:
    """The piece without the tokens that the logits of the prompt predict."""
    paths = tuple(tuple(step for step in path if step[0] >= 0) for path in piece.trie.paths)
    return replace(piece, trie=replace(piece.trie, paths=paths, unread=piece.trie.unread | {-1}))
