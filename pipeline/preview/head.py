"""The linear head of a preview: the one that the job has stored, or one fitted in this process."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa

from tirazh.actors.local_replica import LocalReplica
from tirazh.pipeline import schema
from tirazh.pipeline.classification.head.fit import fit_head
from tirazh.pipeline.classification.head.linear import LinearHead
from tirazh.pipeline.classification.scores import NO_CORRECTIONS
from tirazh.pipeline.column_values import values_of
from tirazh.pipeline.execution.infer import InferConfig, append_results, make_requests
from tirazh.pipeline.head_fitting.file import read_head, sources_of
from tirazh.pipeline.head_fitting.make import stack_states
from tirazh.pipeline.job_run import JobRun
from tirazh.pipeline.output.leases.lease import Tell
from tirazh.pipeline.prompts.choose_step import choose_prompt_step
from tirazh.pipeline.prompts.examples_file import parse_examples
from tirazh.pipeline.spec import ClassifySpec


def preview_head(run: JobRun, infer: InferConfig, replica: LocalReplica, say: Tell) -> LinearHead | None:
    """Return the head of a job, or None for a job without one. `infer` is the configuration of its rows.

    Raises OutputError for a stored head that cannot be used, JobError if an example has no embedding.
    """
    spec, examples = run.spec, run.plan.job.examples
    if not isinstance(spec, ClassifySpec) or spec.head is None or spec.examples is None or examples is None:
        return None
    stored = read_head(run.output, sources_of(spec, run.plan))
    if stored is not None:
        return stored
    table = parse_examples(spec.examples, examples)
    targets = values_of(table.column(schema.LABEL))
    say(f"fitting the head on {table.num_rows:,} examples")
    none = np.zeros(table.num_rows, np.int32)
    made = choose_prompt_step(run.prompts.config)(table.append_column(schema.REPETITION, pa.array(none)))
    good = [row for row, error in enumerate(made.column(schema.ROW_ERROR).to_pylist()) if error is None]
    plain = replace(infer, head=None)
    results = replica.run(make_requests(made.take(good), plain))
    done = append_results(made, good, results, plain, NO_CORRECTIONS)
    states_NC = stack_states(done.column(schema.HIDDEN_STATE), done.column(schema.ROW_ERROR).to_pylist())
    return fit_head(states_NC, targets, tuple(spec.labels or ()), seed=spec.seed)
