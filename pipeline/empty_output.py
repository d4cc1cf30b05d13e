"""Writes the one part of a job without rows. It needs neither Ray nor the model."""

from __future__ import annotations

from tirazh.pipeline.job_run import JobRun
from tirazh.pipeline.output.receipt import make_receipt
from tirazh.pipeline.output.write import WriteStep, tables_to_parquet


def write_empty_part(run: JobRun) -> None:
    """Write a part with all columns of the job and no rows. Raises JobError if the lease is lost."""
    config = run.write_config()
    made = config.parts[0]
    footer = {"part": 0, "rows": 0, "plan_id": made.plan_id, "input_version": made.input_version}
    table = config.layout.schema.empty_table()
    data = tables_to_parquet([table], config.layout.schema, footer=footer, columns=config.layout.columns)
    WriteStep(config).store(make_receipt(data, config.receipts), data)
