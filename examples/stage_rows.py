"""Draw the rows of a stage from `last.parquet` of `embedded_data.py`: labelled news, and as many generated texts.

    python examples/stage_rows.py --rows set/last.parquet --count 32000 --english 0.67 --seed 1 --out stage.parquet

Of the generated texts, which have no `text` column, the share `--english` is in Latin letters. The order is a new
shuffle; the same seed gives the same file.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import polars as pl

_CYRILLIC = re.compile("[а-яё]", re.IGNORECASE)


def main() -> None:
    options = parse_options()
    drawn = draw(pl.read_parquet(options.rows), options.count, english=options.english, seed=options.seed)
    drawn.write_parquet(options.out)
    print(f"{len(drawn):,} rows are in {options.out}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Draw labelled news and as many generated texts.")
    parser.add_argument("--rows", type=Path, required=True, help="last.parquet of embedded_data.py")
    parser.add_argument("--count", type=int, required=True, help="number of rows, half of them labelled")
    parser.add_argument("--english", type=float, default=0.5, help="share of the generated texts in Latin letters")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def draw(rows: pl.DataFrame, count: int, *, english: float, seed: int) -> pl.DataFrame:
    """Return `count` rows in a new order. Raises polars.exceptions.ShapeError where a kind has fewer than are drawn."""
    is_generated = pl.col("text").is_null()
    is_russian = pl.col("completion").map_elements(lambda text: bool(_CYRILLIC.search(text)), return_dtype=pl.Boolean)
    generated = count // 2
    in_english = round(generated * english)
    kinds = [
        (rows.filter(~is_generated), count - generated),
        (rows.filter(is_generated & ~is_russian), in_english),
        (rows.filter(is_generated & is_russian), generated - in_english),
    ]
    drawn = [kind.sample(number, seed=seed, shuffle=True) for kind, number in kinds]
    return pl.concat(drawn).sample(fraction=1.0, seed=seed, shuffle=True)


if __name__ == "__main__":
    main()
