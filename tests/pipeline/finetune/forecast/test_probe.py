"""The steps that `plan --probe` makes are those of the training: of the same mixture, in the same batches."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.system.tiny_model import write_tiny_model
from tirazh.jobs.settings import build_finetune_spec
from tirazh.model.training.sequence_store import SequenceStore
from tirazh.pipeline.finetune.forecast.probe import _config
from tirazh.pipeline.finetune.plan import plan_finetune


@pytest.mark.parametrize(("weights", "shares"), [([3, 1], [(2, 3.0), (6, 1.0)]), (None, None)])
def test_the_data_of_a_probe_are_mixed_as_those_of_the_training(
    weights: list[float] | None, shares: list[tuple[int, float]] | None, tmp_path: Path
) -> None:
    for name, rows in (("a", 2), ("b", 6)):
        pq.write_table(pa.table({"text": [f"{name} {row}" for row in range(rows)]}), tmp_path / f"{name}.parquet")
    settings = {"input": [tmp_path / "a.parquet", tmp_path / "b.parquet"], "output": tmp_path / "out"}
    more = {} if weights is None else {"input_weights": weights}
    model = write_tiny_model(tmp_path / "model")
    spec = build_finetune_spec(settings | more | {"model": model, "packing": "single", "seq_length": 16})
    config = _config(plan_finetune(spec), tmp_path / "probe", device="cpu", dtype="float32")
    sources = SequenceStore(config.train_data).facts.get("sources")
    assert (sources and [(each["sequences"], each["weight"]) for each in sources]) == shares
