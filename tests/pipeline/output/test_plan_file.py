"""plan.json: its bytes stay as they are, so that outputs of earlier versions can be resumed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.pipeline.without_ray import run_without_ray
from tirazh.model.checkpoints.directory import describe
from tirazh.pipeline.build import run_job
from tirazh.pipeline.output.ledger import verify
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.plan_file import write_plan
from tirazh.pipeline.plan import plan_job
from tirazh.pipeline.spec import ClassifySpec
from tirazh.pipeline.storage.filesystem import Storage

ARROW_SCHEMA = (
    "/////3AAAAAQAAAAAAAKAAwABgAFAAgACgAAAAABBAAMAAAACAAIAAAABAAIAAAABAAAAAEAAAAUAAAAEAAUAAgABgAHAAwAAAAQABAAAAAA"
    "AAEFEAAAABwAAAAEAAAAAAAAAAQAAAB0ZXh0AAAAAAQABAAEAAAA"
)
# Written by revision f622718, in this order; the values in angle brackets depend on the machine.
OLD_PLAN = """{
 "format": 1,
 "fingerprint": "<fingerprint>",
 "identity": {
  "kind": "classify",
  "input": [
   "<folder>/in"
  ],
  "model": "<model>",
  "prefix": "",
  "template": "Новость: {{ text }}",
  "truncate": null,
  "seq_length": null,
  "limit": null,
  "dtype": "float32",
  "sparse_mode": null,
  "num_attention_heads": null,
  "fix_sparsity_layout": null,
  "deepspeed_config": null,
  "preset": null,
  "tokenizer": null,
  "text_column": "text",
  "labels": {
   "sport": "спорт",
   "economics": "экономика"
  },
  "examples": "<folder>/few.parquet",
  "calibrate": false,
  "abstain_below": 0.0
 },
 "model_fingerprint": "<model_fingerprint>",
 "examples_sha256": "<examples_sha256>",
 "dtype": "float32",
 "seq_length": 256,
 "columns": {
  "text": "string"
 },
 "arrow_schema": "<arrow_schema>",
 "overrides": [],
 "rows": 10,
 "parts": 3,
 "estimated_tokens": <estimated_tokens>,
 "files": [
  [
   "<folder>/in/a.parquet",
   "a.parquet",
   <size>,
   "<version>",
   [
    0,
    4,
    8,
    10
   ]
  ]
 ]
}"""


@pytest.fixture
def spec(write_input: Callable[..., Path], tmp_path: Path, model_dir: Path) -> ClassifySpec:
    write_input("a.parquet", text=["x y z"] * 10)
    pq.write_table(pa.table({"text": ["a"], "label": ["sport"]}), tmp_path / "few.parquet")
    return ClassifySpec(
        input=(str(tmp_path / "in"),),
        output=str(tmp_path / "out"),
        model=str(model_dir),
        labels={"sport": "спорт", "economics": "экономика"},
        template="Новость: {{ text }}",
        examples=str(tmp_path / "few.parquet"),
        dtype="float32",
        part_rows=4,
    )


def old_plan(spec: ClassifySpec, folder: Path) -> str:
    """The file that the earlier revision wrote for `spec`; values are computed without the code under test."""
    status = (folder / "in/a.parquet").stat()
    values: dict[str, Any] = {
        "folder": folder,
        "model": spec.model,
        "model_fingerprint": describe(spec.model, spec.model_settings).fingerprint,
        "examples_sha256": hashlib.sha256((folder / "few.parquet").read_bytes()).hexdigest(),
        "estimated_tokens": plan_job(spec).estimated_tokens,
        "arrow_schema": ARROW_SCHEMA,
        "size": status.st_size,
        "version": f"{status.st_mtime_ns}-{status.st_ctime_ns}",
    }
    text = OLD_PLAN
    for name, value in values.items():
        text = text.replace(f"<{name}>", str(value))
    identity = json.dumps(
        json.loads(text.replace("<", "").replace(">", ""))["identity"], sort_keys=True, ensure_ascii=False
    )
    return text.replace("<fingerprint>", hashlib.sha256(identity.encode()).hexdigest()[:16])


def test_a_plan_is_stored_with_the_same_bytes_as_by_earlier_revisions(spec: ClassifySpec, tmp_path: Path) -> None:
    output = OutputFiles.at(spec.output, Storage())
    write_plan(output, plan_job(spec))
    assert Path(output.own("plan.json")).read_text(encoding="utf-8") == old_plan(spec, tmp_path)


def test_an_output_with_a_plan_of_an_earlier_revision_is_resumed(
    spec: ClassifySpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_without_ray(monkeypatch)
    run_job(spec)
    out = tmp_path / "out"
    (out / "_tirazh/plan.json").write_text(old_plan(spec, tmp_path), encoding="utf-8")
    before = {path.name: path.read_bytes() for path in out.glob("part-*")}
    (out / "_SUCCESS").unlink()
    (out / "part-00001-of-00003.parquet").unlink()
    manifest = run_job(spec)
    assert manifest["resumed_parts"] == 2
    assert {path.name: path.read_bytes() for path in out.glob("part-*")} == before
    assert verify(str(out)).problems == ()
