"""Everyone who runs a workload, ours included, each in a file of its own behind the interface of `peer.py`."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.peers.ctranslate2_ import CTranslate2
from benchmarks.peers.label_forwards import LabelForwards
from benchmarks.peers.label_prefix_cache import LabelPrefixCache
from benchmarks.peers.label_trie import LabelTriePrefixCache, LabelTrieRecomputed
from benchmarks.peers.masked_one_at_a_time import MaskedOneAtATime
from benchmarks.peers.ours import Ours
from benchmarks.peers.peer import Peer
from benchmarks.peers.transformers_continuous import TransformersContinuous
from benchmarks.peers.transformers_generate import TransformersGenerate

__all__ = ["ABSENT", "REFERENCES", "Peer", "all_peers"]

# Peers that nothing here runs, and why.
ABSENT = {
    "llama.cpp": "not tried: source only on PyPI, and the one build begun was stopped by us; not in the extra",
    "vLLM": "its wheel on PyPI is for CUDA; its CPU build is source only",
}

_PEERS: tuple[type[Peer], ...] = (
    TransformersGenerate,
    TransformersContinuous,
    MaskedOneAtATime,
    LabelTriePrefixCache,
    LabelPrefixCache,
    LabelTrieRecomputed,
    LabelForwards,
)

# Whose float32 answers the others are compared with: (kind of workload, layers) → peer.
REFERENCES: dict[tuple[str, str], type[Peer]] = {
    ("generate", "dense"): TransformersGenerate,
    ("generate", "alternating"): MaskedOneAtATime,
    ("labels", "dense"): LabelForwards,
    ("labels", "alternating"): MaskedOneAtATime,
}


def all_peers(dtypes: Sequence[str], *, slots: int, device: str = "cpu") -> list[Peer]:
    """Every peer at every dtype, ours first; CTranslate2, which may not know them all, at float32 and int8 as well."""
    peers: list[Peer] = []
    for dtype in dtypes:
        peers += [Ours(dtype, mode, slots=slots, device=device) for mode in ("alternating", "dense")]
        peers += [peer(dtype, device=device) for peer in _PEERS]
    return peers + [CTranslate2(dtype, device=device) for dtype in dict.fromkeys([*dtypes, "float32", "int8"])]
