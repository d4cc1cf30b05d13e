"""Initialises a small model for a short training run on little text.

In such a run the initialisation matters more than the learning rate.

Token embeddings are factors of the co-occurrence counts of nearby tokens (count-based word
vectors). Each layer's value and output projections are initialised as inverses of each other, so
that attention starts as an average of its inputs (a simple form of mimetic initialisation: Trockman
and Kolter 2023, arXiv 2305.09828).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tirazh.model.gpt import RuGPT3ForCausalLM

# The weight of a pair of tokens by their distance.
DISTANCES = {1: 1.0, 2: 1.0, 3: 0.7, 4: 0.7, 6: 0.5, 8: 0.5}
RARE = 20  # tokens in fewer pairs get a random vector
EMBEDDING_SCALE = 0.03
VALUE_SCALE = 0.316  # its square is the share of the average that a layer adds to the residual stream


@torch.no_grad()
def warm_start(model: RuGPT3ForCausalLM, sequences: Sequence[Sequence[int]], end_token_id: int) -> None:
    """Initialise the value and output projections, and the embeddings from the training texts' token ids."""
    stream = torch.tensor([token for ids in sequences for token in (*ids, end_token_id)])
    embedding = model.get_parameter("model.embed_tokens.weight")
    vocab_size, size = embedding.shape
    embedding.copy_(neighbour_embeddings(stream, vocab_size, size))
    for layer in range(model.config.num_hidden_layers):
        rotation, _ = torch.linalg.qr(torch.randn(size, size))
        attention = f"model.layers.{layer}.self_attn"
        model.get_parameter(f"{attention}.v_proj.weight").copy_(VALUE_SCALE * rotation)
        model.get_parameter(f"{attention}.o_proj.weight").copy_(VALUE_SCALE * rotation.T)


def neighbour_embeddings(stream: Tensor, vocab_size: int, size: int) -> Tensor:
    """Factorise the positive pointwise mutual information (PPMI) of nearby tokens.

    Tokens with the same neighbours get similar vectors. `stream`: int64 [T]. Returns float32
    [vocab_size, size]; needs about 16 × vocab_size² bytes of memory.
    """
    counts = torch.zeros(vocab_size * vocab_size)
    for distance, value in DISTANCES.items():
        pairs = stream[:-distance] * vocab_size + stream[distance:]
        counts += value * torch.bincount(pairs, minlength=len(counts))
    counts = counts.view(vocab_size, vocab_size)
    counts = counts + counts.T
    seen = counts.sum(1)
    context = (seen + 10) ** 0.75
    information = torch.log((counts + 1e-9) / ((seen + 10)[:, None] * (context / context.sum())))
    information = information.clamp(min=0).masked_fill(counts < 1, 0)
    left, strength, _ = torch.svd_lowrank(information, q=min(size + 44, vocab_size), niter=3)
    vectors = left[:, :size] * strength[:size].sqrt()
    vectors -= vectors.mean(0)
    is_rare = seen < RARE
    vectors[is_rare] = torch.randn(int(is_rare.sum()), size)
    unit: Tensor = normalize(vectors, dim=1)
    return EMBEDDING_SCALE * math.sqrt(size) * unit
