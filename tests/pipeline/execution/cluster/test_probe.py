"""Every machine must see the driver's output directory: the same disk, not one of the same name."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from tirazh.errors import RequestError
from tirazh.pipeline.execution.cluster import probe as node_probe
from tirazh.pipeline.execution.cluster.probe import CheckedStep, NodeProbe, make_probe
from tirazh.pipeline.storage.filesystem import Storage


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NodeProbe:
    monkeypatch.setattr(node_probe, "_checked", set())
    (tmp_path / "in.parquet").touch()
    return make_probe(
        Storage(), str(tmp_path), lambda name: str(tmp_path / name), [str(tmp_path / "in.parquet")], "embedded"
    )


def test_a_machine_that_reads_the_drivers_file_is_accepted(probe: NodeProbe) -> None:
    probe.write()
    assert probe.problem() is None
    probe.remove()
    assert not Path(probe.uri).exists()


@pytest.mark.parametrize("found", [None, "of another driver"], ids=["no file", "a file of another disk"])
def test_another_disk_is_named_with_the_machine(probe: NodeProbe, found: str | None) -> None:
    if found is not None:
        Path(probe.uri).write_text(found)
    assert "does not see the files that the driver writes to" in str(probe.problem())
    assert str(probe.problem()).startswith("machine ")


def test_a_machine_without_the_input_or_the_model_is_named(probe: NodeProbe, tmp_path: Path) -> None:
    probe.write()
    (tmp_path / "in.parquet").unlink()
    assert f"input {tmp_path}/in.parquet does not exist on machine " in str(probe.problem())
    without_model = make_probe(Storage(), str(tmp_path), lambda name: str(tmp_path / name), [], str(tmp_path / "model"))
    without_model.write()
    assert f"there is no model {tmp_path}/model on machine " in str(without_model.problem())


def test_a_step_on_a_machine_that_has_joined_later_checks_the_disk_once(probe: NodeProbe) -> None:
    table = pa.table({"id": [1]})
    step = CheckedStep(probe, lambda rows: rows)
    with pytest.raises(RequestError, match="does not see the files"):
        step(table)
    probe.write()
    assert step(table) is table
    probe.remove()
    assert step(table) is table


def test_of_many_inputs_a_hundred_are_looked_for() -> None:
    inputs = [f"/in/{number}" for number in range(1_001)]
    assert 50 < len(make_probe(Storage(), "/out", str, inputs, "embedded").inputs) <= 100
