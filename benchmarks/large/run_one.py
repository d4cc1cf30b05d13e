"""Runs the job that a JSON file describes, in this process: `python -m benchmarks.large.run_one JOB.json`.

The file has the settings of the job, its `kind`, and maybe an `engine`. The manifest is written beside it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tirazh.pipeline.build import run_job
from tirazh.pipeline.spec import ClassifySpec, GenerateSpec


def main() -> None:
    """Run the job."""
    path = Path(sys.argv[1])
    settings = json.loads(path.read_text(encoding="utf-8"))
    kind, engine = settings.pop("kind"), settings.pop("engine", "model")
    settings["input"] = (settings["input"],)
    spec = GenerateSpec(**settings) if kind == "generate" else ClassifySpec(**settings)
    manifest = run_job(spec, engine=engine)
    path.with_suffix(".manifest.json").write_text(json.dumps(manifest, default=str), encoding="utf-8")


if __name__ == "__main__":
    main()
