"""plan.json: its bytes stay as they are while its format stays, so that later versions can resume an output."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tirazh.model.checkpoints.directory import describe
from tirazh.pipeline.output.names import OutputFiles
from tirazh.pipeline.output.plan_file import write_plan
from tirazh.pipeline.plan import plan_job
from tirazh.pipeline.spec import ClassifySpec
from tirazh.pipeline.storage.filesystem import Storage

ARROW_SCHEMA = (
    "/////3AAAAAQAAAAAAAKAAwABgAFAAgACgAAAAABBAAMAAAACAAIAAAABAAIAAAABAAAAAEAAAAUAAAAEAAUAAgABgAHAAwAAAAQABAAAAAA"
    "AAEFEAAAABwAAAAEAAAAAAAAAAQAAAB0ZXh0AAAAAAQABAAEAAAA"
)
# Format 2, in this order; the values in angle brackets depend on the machine.
STORED_PLAN = """{
 "format": 4,
 "plan_id": "<plan_id>",
 "fingerprint": "<fingerprint>",
 "identity": {
  "kind": "classify",
  "input": [
   "<folder>/in"
  ],
  "model": "<model>",
  "prefix": "",
  "template": "Новость: {{ text }}",
  "truncate": "right",
  "seq_length": 256,
  "limit": null,
  "sparse_mode": "none",
  "num_attention_heads": 2,
  "fix_sparsity_layout": 1,
  "deepspeed_config": {
   "block_size": 16,
   "num_local_blocks": 8,
   "num_global_blocks": 1,
   "num_different_global_patterns": 8,
   "different_layout_per_head": true
  },
  "preset": null,
  "tokenizer": null,
  "text_column": "text",
  "labels": {
   "sport": "спорт",
   "economics": "экономика"
  },
  "examples": "<folder>/few.parquet",
  "calibrate": null,
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
 "unified": [],
 "passed_over": [],
 "rows": 10,
 "rows_per_input_row": 1,
 "parts": 3,
 "estimated_tokens": <estimated_tokens>,
 "files": [
  [
   "<folder>/in/a.parquet",
   "a.parquet",
   <size>,
   "<version>",
   [],
   [
    0,
    4,
    8,
    10
   ],
   <row_bytes>
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


def stored_plan(spec: ClassifySpec, folder: Path) -> str:
    """The file of format 4 for `spec`; values are computed without the code under test."""
    status = (folder / "in/a.parquet").stat()
    values: dict[str, Any] = {
        "folder": folder,
        "model": spec.model,
        "model_fingerprint": describe(spec.model, spec.model_settings).fingerprint,
        "examples_sha256": hashlib.sha256((folder / "few.parquet").read_bytes()).hexdigest(),
        "estimated_tokens": plan_job(spec).estimated_tokens,
        "row_bytes": plan_job(spec).files[0].row_bytes,
        "arrow_schema": ARROW_SCHEMA,
        "size": status.st_size,
        "version": f"{status.st_mtime_ns}-{status.st_ctime_ns}",
    }
    text = STORED_PLAN.removesuffix("\n}") + ',\n "content_sha256": "<content_sha256>"\n}'
    for name, value in values.items():
        text = text.replace(f"<{name}>", str(value))
    plan = json.loads(text.replace("<", "").replace(">", ""))
    identity = json.dumps(plan["identity"], sort_keys=True, ensure_ascii=False)
    text = text.replace("<fingerprint>", hashlib.sha256(identity.encode()).hexdigest()[:16])
    names = ("identity", "model_fingerprint", "examples_sha256", "dtype", "seq_length", "overrides")
    content = {name: plan[name] for name in names}
    content["files"] = [[key, uri, size, version, cuts] for uri, key, size, version, _, cuts, _ in plan["files"]]
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    text = text.replace("<plan_id>", hashlib.sha256(canonical.encode()).hexdigest()[:32])
    before_checksum = text[: text.index(',\n "content_sha256"')] + "\n}"
    return text.replace("<content_sha256>", hashlib.sha256(before_checksum.encode()).hexdigest())


def test_a_plan_is_stored_with_the_bytes_of_its_format(spec: ClassifySpec, tmp_path: Path) -> None:
    output = OutputFiles.at(spec.output, Storage())
    write_plan(output, plan_job(spec))
    assert Path(output.own("plan.json")).read_text(encoding="utf-8") == stored_plan(spec, tmp_path)
