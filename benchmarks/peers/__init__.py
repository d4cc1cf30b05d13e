"""The engines that run the workloads, ours included. Each has a file of its own and implements `peer.Peer`."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.model_under_test import Mode
from benchmarks.peers.ctranslate2_ import CTranslate2
from benchmarks.peers.foreign.peer import Foreign, OpenVino, Vllm, VllmOnGpu
from benchmarks.peers.label_forwards import LabelForwards
from benchmarks.peers.label_prefix_cache import LabelPrefixCache
from benchmarks.peers.label_trie import LabelTriePrefixCache, LabelTrieRecomputed
from benchmarks.peers.llama_cpp_ import LlamaCpp
from benchmarks.peers.masked_one_at_a_time import MaskedOneAtATime
from benchmarks.peers.ours import Ours
from benchmarks.peers.ours_trimmed import OursTrimmed
from benchmarks.peers.ours_unshared import OursUnshared
from benchmarks.peers.peer import Peer
from benchmarks.peers.transformers_continuous import TransformersContinuous
from benchmarks.peers.transformers_generate import TransformersGenerate

__all__ = ["REFERENCES", "Peer", "all_peers"]

_MODES: tuple[Mode, ...] = ("alternating", "dense")
_PEERS: tuple[type[Peer], ...] = (
    TransformersGenerate,
    TransformersContinuous,
    MaskedOneAtATime,
    LabelTriePrefixCache,
    LabelPrefixCache,
    LabelTrieRecomputed,
    LabelForwards,
)

_FOREIGN: tuple[type[Foreign], ...] = (OpenVino, Vllm, VllmOnGpu)

# The peer whose float32 answers the others are compared with: (kind of workload, layers) → peer.
REFERENCES: dict[tuple[str, str], type[Peer]] = {
    ("generate", "dense"): TransformersGenerate,
    ("generate", "alternating"): MaskedOneAtATime,
    ("labels", "dense"): LabelForwards,
    ("labels", "alternating"): MaskedOneAtATime,
}


def all_peers(dtypes: Sequence[str], *, slots: int, device: str = "cpu") -> list[Peer]:
    """Return every peer at every dtype, ours first.

    The engines in C++ may not support them all, so they also run at float32 and at a narrower dtype of their own.
    On a CPU ours runs in 8 bits too, which torch's peers cannot, and OpenVINO with 8-bit weights and cache.
    """
    peers: list[Peer] = []
    for dtype in dtypes:
        is_main = dtype == dtypes[0]
        for mode in _MODES:
            peers.append(Ours(dtype, mode, slots=slots, device=device, is_main=is_main))
        peers += [kind(dtype, "dense", slots=slots, device=device) for kind in (OursTrimmed, OursUnshared) if is_main]
        peers += [peer(dtype, device=device) for peer in _PEERS if dtype != "int8"]
    if device == "cpu" and "int8" not in dtypes:
        peers += [Ours("int8", mode, slots=slots, is_main=False) for mode in _MODES]
    peers += [CTranslate2(dtype, device=device) for dtype in dict.fromkeys([*dtypes, "float32", "int8"])]
    peers += [LlamaCpp(dtype, device=device) for dtype in dict.fromkeys([*dtypes, "float16"])]
    for foreign in (each for each in _FOREIGN if each.runs_on == device):
        peers += [
            foreign(dtype, device=device) for dtype in dict.fromkeys([*dtypes, "int8"]) if dtype in foreign.dtypes
        ]
    return peers
