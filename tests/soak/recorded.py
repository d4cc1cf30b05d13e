"""`tirazh` as it is, whose engine also notes the rows that it is given: `python -m tests.soak.recorded generate …`.

Only so can work that a killed run had begun be counted: nothing of it is left anywhere else. As an engine module
(`actors.messages.ReplicaConfig.engine`) it is the real one with a longer `add`.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actors.messages import ReplicaConfig
from actors.rendezvous import Place


def build_runner(config: ReplicaConfig, place: Place) -> Any:
    from actors import model_engine

    return model_engine.build_runner(config, place)


def count_weight_bytes(runner: Any) -> int:
    from actors import model_engine

    return model_engine.count_weight_bytes(runner)


def build_engine(config: ReplicaConfig, runner: Any) -> Any:
    from actors import model_engine
    from model.checkpoint import open_checkpoint
    from model.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(open_checkpoint(config.model, config.flags).tokenizer_dir)
    engine = model_engine.build_engine(config, runner)
    notes = (Path(config.model).parent / "begun" / f"{os.getpid()}.log").open("a", buffering=1)

    def add(requests: Sequence[Any]) -> list[int]:
        for request in requests:
            text = tokenizer.decode(list(request.prompt_token_ids))
            notes.write(f"{time.time():.3f} {text.partition(':')[0].removeprefix('row ')}\n")
        ids: list[int] = engine_add(requests)
        return ids

    engine_add, engine.add = engine.add, add  # type: ignore[method-assign, assignment]
    return engine


def rows_begun(notes: Path, *, since: float, until: float) -> set[int]:
    """Numbers of the rows that engines were given between two moments (seconds since 1970)."""
    found = set()
    for path in notes.glob("*.log"):
        for line in path.read_text().splitlines():
            moment, _, row = line.partition(" ")
            if row.isdigit() and since <= float(moment) <= until:
                found.add(int(row))
    return found


def main() -> int:
    import jobs.cli
    import pipeline.build

    pipeline.build.run_job = functools.partial(pipeline.build.run_job, engine="tests.soak.recorded")
    return jobs.cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
