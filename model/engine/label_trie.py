"""The labels of a job as a trie of tokens, so that tokens which labels share are computed once.

The nodes of the trie run behind the last prompt token with tree attention (`label_scoring.py`). A
label's last token is no node: its log-probability is read from the logits of the token before it.
Where the labels' ends are scored too, it is one, because what follows it is read from its logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tirazh.errors import RequestError
from tirazh.model.requests import EngineJob


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


def job_trie(job: EngineJob, num_tokens: int) -> LabelTrie:
    """Build the trie of a job's labels for a model with `num_tokens` token ids. Raises RequestError."""
    return build_trie(job.labels, [token for token in job.label_ends if token < num_tokens], job.label_starts)
