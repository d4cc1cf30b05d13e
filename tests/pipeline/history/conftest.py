"""The small jobs without Ray of the tests of outputs."""

from __future__ import annotations

from tests.pipeline.output.conftest import job_output, make_spec, no_ray

__all__ = ["job_output", "make_spec", "no_ray"]
