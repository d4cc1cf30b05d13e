"""Draw the pictures of README and docs: `python -m docs.pictures.draw` rewrites the SVG files beside this one.

The attention pattern comes from the function that the model itself uses, `build_layout`; a test redraws every
picture and compares it with the committed file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from docs.pictures.svg import arrow, box, line, page, rect, text
from tirazh.model.attention.block_layout import build_layout, global_starts
from tirazh.model.config import ModelConfig

FOLDER = Path(__file__).resolve().parent
NUM_POSITIONS = 2048
HEAD = 1  # any head shows the idea; in this one the kept block is not the last of its window
WIDTH = 860


def main() -> None:
    """Write every picture into the folder of this file."""
    for name, draw in PICTURES.items():
        (FOLDER / name).write_text(draw(), encoding="utf-8")


def xl_config() -> ModelConfig:
    """Return the configuration of ruGPT-3 XL's layers: 16 heads, windows of 8 blocks of 16 tokens."""
    return ModelConfig(num_layers=24, hidden_size=2048, num_attention_heads=16, vocab_size=50264)


def visible_keys(layout_MM: NDArray[np.bool_], block_size: int) -> int:
    """Return how many keys the last position sees."""
    return int(layout_MM[-1].sum()) * block_size


def draw_attention() -> str:
    """Draw the pattern of one sparse head: rows are queries, columns are keys, coloured where a query sees a key."""
    config = xl_config()
    pattern = config.sparse_pattern
    layout_MM = build_layout(config, NUM_POSITIONS)[HEAD]
    num_blocks, cell, left, top = len(layout_MM), 3, 36, 66
    side = num_blocks * cell
    kept = visible_keys(layout_MM, pattern.block_size)
    shapes = [
        text(left, 32, "What one sparse head sees", size=17, bold=True),
        text(left, 54, "keys: 2,048 positions →", colour="muted"),
        rect(left, top, side, side, "faint"),
        f'<polygon class="soft" points="{left},{top} {left},{top + side} {left + side},{top + side}"/>',
    ]
    for column, first, stop, is_local in _column_runs(layout_MM, pattern.num_local_blocks):
        colour = "local" if is_local else "global"
        shapes.append(rect(left + column * cell, top + first * cell, cell, (stop - first) * cell, colour))
    shapes += [
        f'<g transform="translate({left - 12} {top + 150}) rotate(90)">',
        text(0, 0, "queries →", colour="muted"),
        "</g>",
        *_last_row_note(left, top, side, kept),
        *_attention_legend(left + side + 44, top, kept),
    ]
    return page(WIDTH, top + side + 46, shapes, title=f"A sparse head sees {kept} of {NUM_POSITIONS:,} keys")


def _column_runs(layout_MM: NDArray[np.bool_], num_local: int) -> Iterator[tuple[int, int, int, bool]]:
    """Yield (column, first row, row after the last, is local) for every unbroken run of visible blocks."""
    num_blocks = len(layout_MM)
    for column in range(num_blocks):
        end_of_window = min((column // num_local + 1) * num_local, num_blocks)
        yield column, column, end_of_window, True
        if end_of_window < num_blocks and layout_MM[end_of_window, column]:
            assert layout_MM[end_of_window:, column].all()
            yield column, end_of_window, num_blocks, False


def _last_row_note(left: float, top: float, side: float, kept: int) -> list[str]:
    y = top + side
    return [
        line(left, y + 4, left + side, y + 4, colour="ink", width=2),
        text(left + side, y + 24, f"the last query: {kept} keys", anchor="end", bold=True),
    ]


def _attention_legend(x: float, y: float, kept: int) -> list[str]:
    pattern = xl_config().sparse_pattern
    window, block = pattern.window_size, pattern.block_size
    closed = NUM_POSITIONS // window - 1
    rows = [
        rect(x, y + 2, 14, 14, "local", radius=2),
        text(x + 24, y + 14, "Local: the query's own window", bold=True),
        text(x + 24, y + 34, f"{window} positions, causal", colour="muted"),
        rect(x, y + 66, 14, 14, "global", radius=2),
        text(x + 24, y + 78, "Global: one block of every earlier window", bold=True),
        text(x + 24, y + 98, f"{block} positions each; which block differs by head", colour="muted"),
        rect(x, y + 130, 14, 14, "soft", radius=2),
        text(x + 24, y + 142, "The rest of an earlier window: dropped", bold=True),
        text(x + 24, y + 162, "no later query of this head reads it", colour="muted"),
        line(x, y + 190, WIDTH - 36, y + 190, colour="edge"),
        text(x, y + 236, f"{kept}", size=34, bold=True),
        text(x + 84, y + 236, f"of {NUM_POSITIONS:,} keys are kept in the cache"),
        text(x, y + 262, f"{closed} closed windows × {block}, and {window} of the open one", colour="muted"),
        text(x, y + 300, "A sparse layer is plain attention over a short"),
        text(x, y + 320, "cache: it needs no sparse kernel, and 1.5 to 1.7"),
        text(x, y + 340, "times as many sequences fit in the same memory."),
        text(x, y + 382, "ruGPT-3 XL, a layer with the fixed pattern", colour="muted", size=12),
    ]
    return rows


def draw_cache() -> str:
    """Draw how the positions of a sequence become the rows of a slot's cache, for three heads."""
    config = xl_config()
    pattern = config.sparse_pattern
    starts = global_starts(config)
    num_closed, open_tokens, scale, left = 5, 88, 1.0, 96
    window, block = pattern.window_size * scale, pattern.block_size * scale
    shapes = [
        text(36, 32, "What a slot of the cache holds for a sparse layer", size=17, bold=True),
        text(left, 62, "positions of the sequence: five closed windows and an open one", colour="muted"),
    ]
    for row, head in enumerate((0, 1, 2)):
        y = 76 + 32 * row
        shapes.append(text(left - 14, y + 16, f"head {head}", anchor="end"))
        for number in range(num_closed):
            x = left + number * window
            shapes += [
                rect(x, y, window - 2, 22, "soft", radius=2),
                rect(x + starts[head] * scale, y, min(block, window - 2 - starts[head] * scale), 22, "global"),
            ]
        shapes.append(rect(left + num_closed * window, y, open_tokens * scale, 22, "local", radius=2))
    cache_y = 236
    shapes += [
        *arrow(left + 40, 178, left + 40, 226),
        text(left + 58, 194, "When a window closes, each head keeps its own block of 16 and the rest is dropped."),
        text(
            left + 58,
            214,
            "Positions were added to the embeddings, so the order of keys has no meaning.",
            colour="muted",
        ),
    ]
    retained = num_closed * block
    for row, head in enumerate((0, 1, 2)):
        y = cache_y + 32 * row
        shapes.append(text(left - 14, y + 16, f"head {head}", anchor="end"))
        shapes += [rect(left + number * block, y, block - 1, 22, "global") for number in range(num_closed)]
        shapes += [
            rect(left + retained, y, open_tokens * scale, 22, "local"),
            rect(left + retained + open_tokens * scale, y, window - open_tokens * scale, 22, "faint"),
        ]
    end = left + retained + window
    shapes += [
        *_bracket(left, left + retained - 1, cache_y + 102, "retained global-block KV", "global", anchor="start"),
        *_bracket(left + retained + 2, end, cache_y + 102, "", "local"),
        text(left + retained + 108, cache_y + 122, "open window", colour="local", bold=True),
        text(end + 28, cache_y + 16, "Every head has the same number of rows, so decode is one"),
        text(end + 28, cache_y + 36, "plain attention call with a length for each slot."),
        text(end + 28, cache_y + 62, "At 2,048 positions: 15 × 16 retained + 128 open = 368 rows", colour="muted"),
        text(end + 28, cache_y + 82, "in place of 2,048.", colour="muted"),
    ]
    return page(
        WIDTH,
        cache_y + 142,
        shapes,
        title="The cache of a sparse layer: retained global-block KV, then the open window",
    )


def _bracket(x1: float, x2: float, y: float, words: str, colour: str, *, anchor: str = "middle") -> list[str]:
    """Return a line under a range of the cache with its name beneath."""
    shapes = [line(x1, y, x2, y, colour=colour, width=2)]
    if words:
        shapes.append(
            text(x1 if anchor == "start" else (x1 + x2) / 2, y + 20, words, colour=colour, bold=True, anchor=anchor)
        )
    return shapes


def draw_job() -> str:
    """Draw how a job is divided: files into parts, parts among replicas, a replica into ranks, and back to files."""
    top, shapes = 76, [text(36, 32, "From a job to its ranks", size=17, bold=True)]
    columns = {"input": 36, "parts": 176, "tasks": 316, "replicas": 452, "output": 684}
    titles = {
        "input": ("input", "Parquet files"),
        "parts": ("parts", "rows of one file"),
        "tasks": ("CPU tasks", "prompts, tokens"),
        "replicas": ("replicas", "whole copies of the model"),
        "output": ("output", "one file a part"),
    }
    for name, (title, note) in titles.items():
        shapes += [text(columns[name], 60, title, bold=True), text(columns[name], 78, note, colour="muted", size=12)]
    top = 98
    for number in range(3):
        y = top + number * 70
        shapes += [
            *box(columns["input"], y, 92, 56),
            text(columns["input"] + 46, y + 33, f"{number:03d}.parquet", anchor="middle", size=11.5),
        ]
        for half in range(2):
            part, part_y = 2 * number + half, y + half * 30
            shapes += [
                rect(columns["parts"], part_y, 84, 26, "soft", radius=4),
                text(columns["parts"] + 42, part_y + 17, f"part {part}", anchor="middle", size=12),
                line(columns["input"] + 92, y + 28, columns["parts"], part_y + 13, colour="edge"),
                *_output_part(columns["output"], part_y, part),
            ]
    shapes += [
        *box(columns["tasks"], top, 92, 196),
        text(columns["tasks"] + 46, top + 86, "Ray Data", anchor="middle"),
        text(columns["tasks"] + 46, top + 106, "read, render,", anchor="middle", colour="muted", size=12),
        text(columns["tasks"] + 46, top + 122, "tokenise", anchor="middle", colour="muted", size=12),
        *arrow(columns["parts"] + 88, top + 98, columns["tasks"] - 4, top + 98),
    ]
    for number in range(2):
        shapes += _replica(columns["replicas"], top + number * 104, number)
        middle = top + number * 104 + 46
        shapes += [
            *arrow(columns["tasks"] + 96, middle, columns["replicas"] - 4, middle),
            *arrow(columns["replicas"] + 196, middle, columns["output"] - 4, middle),
        ]
    shapes += [
        rect(columns["output"], top + 208, 140, 26, "faint", radius=4),
        text(columns["output"] + 70, top + 225, "_SUCCESS, at the end", anchor="middle", size=11.5),
    ]
    foot = top + 270
    shapes += [
        text(
            36,
            foot,
            "Parts depend on the input and the settings alone, and a part file appears whole or not at all:",
            colour="muted",
        ),
        text(
            36,
            foot + 20,
            "rerunning the command lists the output and makes only the parts that are missing.",
            colour="muted",
        ),
    ]
    return page(
        WIDTH, foot + 44, shapes, title="A job is cut into parts; parts go to replicas; a replica is one or more ranks"
    )


def _replica(x: float, y: float, number: int) -> list[str]:
    shapes = [*box(x, y, 192, 92), text(x + 12, y + 20, f"replica {number}", bold=True)]
    for rank in range(2):
        at = x + 12 + rank * 86
        shapes += [
            rect(at, y + 30, 80, 50, "local", radius=4),
            text(at + 40, y + 52, f"rank {rank}", anchor="middle", colour="paper", size=12, bold=True),
            text(at + 40, y + 69, "½ of weights", anchor="middle", colour="paper", size=11),
        ]
    return shapes


def _output_part(x: float, y: float, part: int) -> list[str]:
    return [
        rect(x, y, 140, 26, "soft", radius=4),
        text(x + 70, y + 17, f"part-0000{part}-of-00006", anchor="middle", size=11.5),
    ]


PICTURES: dict[str, Callable[[], str]] = {
    "attention.svg": draw_attention,
    "cache.svg": draw_cache,
    "job.svg": draw_job,
}

if __name__ == "__main__":
    main()
