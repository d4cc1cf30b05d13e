"""Mutations of a valid file: truncation, flipped bits, false lengths, and changed slices.

A slice is removed, repeated, zeroed, or random bytes are inserted.
The same seed gives the same mutants on every machine.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

# Edge values of the integers that file formats use for lengths, in both byte orders.
EDGES = [
    (value % (1 << 8 * width)).to_bytes(width, order)
    for value in (0, 1, -1, 127, 128, 255, 1 << 15, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, (1 << 63) - 1)
    for width in (1, 2, 4, 8)
    for order in ("little", "big")
]
Mutation = Callable[[random.Random, bytearray], None]


def mutants(data: bytes, *, count: int, seed: int, near_end: bool = False) -> Iterator[tuple[str, bytes]]:
    """Yield `count` mutants as pairs (names of the mutations, content).

    With `near_end`, mutate only the last tenth of the file, where a footer is.
    """
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        mutations = rng.choices(MUTATIONS, k=rng.choice((1, 1, 1, 2, 4)))
        kept = len(data) * 9 // 10 if near_end else 0
        copy = bytearray(data[kept:])
        for mutate in mutations:
            mutate(rng, copy)
        yield f"{number} {'+'.join(mutate.__name__ for mutate in mutations)}", data[:kept] + bytes(copy)


def cut_end(rng: random.Random, data: bytearray) -> None:
    del data[rng.randrange(len(data) + 1) :]


def cut_start(rng: random.Random, data: bytearray) -> None:
    del data[: rng.randrange(len(data) + 1)]


def flip_bit(rng: random.Random, data: bytearray) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def set_edge(rng: random.Random, data: bytearray) -> None:
    edge, at = rng.choice(EDGES), rng.randrange(len(data) + 1)
    data[at : at + len(edge)] = edge


def remove_slice(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data) + 1)
    del data[at : at + rng.randrange(1, 64)]


def repeat_slice(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = data[at : at + rng.randrange(1, 64)]


def insert_random_bytes(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.randbytes(rng.randrange(1, 64))


def zero_slice(rng: random.Random, data: bytearray) -> None:
    at, length = rng.randrange(len(data) + 1), rng.randrange(1, 64)
    data[at : at + length] = bytes(len(data[at : at + length]))


MUTATIONS: tuple[Mutation, ...] = (
    *(cut_end, cut_start, flip_bit, flip_bit, set_edge, set_edge),
    *(remove_slice, repeat_slice, insert_random_bytes, zero_slice),
)
