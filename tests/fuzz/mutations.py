"""Ways to spoil a good file: cut off, flipped bits, lengths that lie, pieces moved, doubled or lost. The same seed
spoils the same way on every machine."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

# Numbers at the edges of what programs take for a length, little and big endian.
EDGES = [
    (value % (1 << 8 * width)).to_bytes(width, order)
    for value in (0, 1, -1, 127, 128, 255, 1 << 15, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, (1 << 63) - 1)
    for width in (1, 2, 4, 8)
    for order in ("little", "big")
]
Spoil = Callable[[random.Random, bytearray], None]


def mutants(data: bytes, *, count: int, seed: int, near_end: bool = False) -> Iterator[tuple[str, bytes]]:
    """`count` spoilt copies, each with the name of what was done. `near_end` spoils the last tenth (footers) only."""
    for number in range(count):
        draw = random.Random(f"{seed} {number}")
        spoils = draw.choices(WAYS, k=draw.choice((1, 1, 1, 2, 4)))
        keep = len(data) * 9 // 10 if near_end else 0
        copy = bytearray(data[keep:])
        for spoil in spoils:
            spoil(draw, copy)
        yield f"{number} {'+'.join(spoil.__name__ for spoil in spoils)}", data[:keep] + bytes(copy)


def cut_end(draw: random.Random, data: bytearray) -> None:
    del data[draw.randrange(len(data) + 1) :]


def cut_start(draw: random.Random, data: bytearray) -> None:
    del data[: draw.randrange(len(data) + 1)]


def flip_bit(draw: random.Random, data: bytearray) -> None:
    if data:
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def set_edge(draw: random.Random, data: bytearray) -> None:
    edge, at = draw.choice(EDGES), draw.randrange(len(data) + 1)
    data[at : at + len(edge)] = edge


def lose_piece(draw: random.Random, data: bytearray) -> None:
    at = draw.randrange(len(data) + 1)
    del data[at : at + draw.randrange(1, 64)]


def double_piece(draw: random.Random, data: bytearray) -> None:
    at = draw.randrange(len(data) + 1)
    data[at:at] = data[at : at + draw.randrange(1, 64)]


def add_noise(draw: random.Random, data: bytearray) -> None:
    at = draw.randrange(len(data) + 1)
    data[at:at] = draw.randbytes(draw.randrange(1, 64))


def zero_piece(draw: random.Random, data: bytearray) -> None:
    at, length = draw.randrange(len(data) + 1), draw.randrange(1, 64)
    data[at : at + length] = bytes(len(data[at : at + length]))


WAYS: tuple[Spoil, ...] = (
    *(cut_end, cut_start, flip_bit, flip_bit, set_edge, set_edge, lose_piece, double_piece, add_noise, zero_piece),
)
