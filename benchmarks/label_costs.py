"""What several questions and several orders of examples cost, beside the jobs that a user would run instead.

    python -m benchmarks.label_costs --input news.parquet --text-column text --rows 300

One model in this process, warm. Each figure is a ratio of times of the same rows in the same process, the median of
several rounds in turn: three questions in one pass against one question, and ten orders of the examples in one job
against ten jobs of one order each.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tirazh.actors.cores import usable_cores
from tirazh.actors.local_replica import LocalReplica, local_dtype, local_replica
from tirazh.actors.messages import ReplicaConfig
from tirazh.model.checkpoints.directory import resolve_model
from tirazh.model.requests import ScoreRequest
from tirazh.model.tokenizer import load_tokenizer
from tirazh.pipeline import schema
from tirazh.pipeline.prompts.choose_step import choose_prompt_step
from tirazh.pipeline.prompts.prepare import PreparedPrompts, prepare_prompts
from tirazh.pipeline.resolve import resolve_job
from tirazh.pipeline.spec import ClassifySpec

QUESTIONS = {
    "topic": {"labels": ["спорт", "экономика", "культура", "наука", "мир"], "suffix": "\nТема:"},
    "tone": {"labels": ["хорошая", "плохая", "нейтральная"], "suffix": "\nНовость:"},
    "place": {"labels": ["Россия", "Европа", "Азия", "Америка"], "suffix": "\nМесто:"},
}
ROUNDS, ORDERS = 5, 10


def main() -> None:
    options = _parser().parse_args()
    table = pq.read_table(options.input, columns=[options.text_column]).slice(0, options.rows)
    base = ClassifySpec(
        input=(options.input,),
        output="unused",
        model=options.model,
        text_column=options.text_column,
        labels={each: each for each in QUESTIONS["topic"]["labels"]},
        device="cpu",
    )
    job = resolve_job(base)
    config = ReplicaConfig(
        model=options.model,
        dtype=local_dtype("cpu"),
        slots=64,
        seq_length=job.seq_length,
        threads_per_rank=usable_cores(),
    )
    with local_replica(config) as replica:
        facts = {**questions(base, table, replica), **orders(base, table, replica)}
    print(json.dumps({"rows": table.num_rows, "dtype": config.dtype, "load_s": round(replica.start_s, 2), **facts}))


def questions(base: ClassifySpec, table: pa.Table, replica: LocalReplica) -> dict[str, Any]:
    """One question, and three in one pass."""
    one = replace(base, labels=None, template=f"{{{{ {base.text_column} }}}}", questions={"topic": QUESTIONS["topic"]})
    three = replace(one, questions=QUESTIONS)
    first, second = (_Job(spec, table, replica) for spec in (one, three))
    times = in_turn([first.run, second.run])
    return {
        "tokens": first.tokens,
        "three_questions": round(statistics.median(b / a for a, b in times), 3),
        "one_question_rows_per_s": round(table.num_rows / statistics.median(a for a, _ in times), 1),
    }


def orders(base: ClassifySpec, table: pa.Table, replica: LocalReplica) -> dict[str, Any]:
    """Ten orders of eight examples in one job, and ten jobs with one order each."""
    texts = [str(text) for text in table.column(base.text_column).to_pylist()[:8]]
    labels = list(base.labels or {})
    rows = [{base.text_column: text[:200], "label": labels[index % len(labels)]} for index, text in enumerate(texts)]
    examples = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), examples)
    data, rest = examples.getvalue().to_pybytes(), table.slice(8)
    few = replace(base, examples="examples.parquet", shots=8)
    together = _Job(replace(few, permutations=ORDERS), rest, replica, data)
    single = [_Job(replace(few, seed=seed), rest, replica, data) for seed in range(ORDERS)]

    def one_by_one() -> None:
        for each in single:
            each.run()

    times = in_turn([one_by_one, together.run])
    return {"ten_orders": round(statistics.median(b / a for a, b in times), 3)}


def in_turn(functions: Sequence[Any]) -> list[tuple[float, ...]]:
    """The seconds of each function in every round; one round before does not count."""
    times = []
    for _ in range(ROUNDS + 1):
        found = []
        for function in functions:
            began = time.perf_counter()
            function()
            found.append(time.perf_counter() - began)
        times.append(tuple(found))
    return times[1:]


class _Job:
    """The requests of a job, made beforehand, on a replica that other jobs share."""

    def __init__(
        self, spec: ClassifySpec, table: pa.Table, replica: LocalReplica, examples: bytes | None = None
    ) -> None:
        prepared = _prepare(spec, examples)
        assert prepared.labels is not None
        jobs = [replica.add_job(job) for job in prepared.engine_jobs]
        zeros = pa.array([0] * table.num_rows, pa.int32())
        rows = table.append_column(schema.PART, zeros).append_column(schema.REPETITION, zeros)
        prompts: list[Any] = choose_prompt_step(prepared.config)(rows).column(schema.PROMPT_IDS).to_pylist()
        requests = prepared.labels.of_prompts([ids for ids in prompts if ids is not None])
        self._replica = replica
        self._requests: list[ScoreRequest] = [replace(request, job=jobs[request.job]) for request in requests]
        self.tokens = sum(len(request.prompt_token_ids) for request in self._requests)

    def run(self) -> None:
        """Score all rows."""
        results = self._replica.run(self._requests)
        assert all(result.error is None for result in results)


def _prepare(spec: ClassifySpec, examples: bytes | None) -> PreparedPrompts:
    job = resolve_job(replace(spec, examples=None, shots=None, permutations=1))
    directory = job.model.tokenizer_dir
    return prepare_prompts(
        spec,
        load_tokenizer(directory, resolve_model(spec.model)),
        job.source,
        tokenizer_dir=directory or "",
        seq_length=job.seq_length,
        examples=examples,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.label_costs", description=__doc__)
    parser.add_argument("--input", required=True, help="Parquet file")
    parser.add_argument("--text-column", default="text", help="column of the text")
    parser.add_argument("--rows", type=int, default=300, help="rows to score")
    parser.add_argument("--model", default="embedded", help="model directory")
    return parser


if __name__ == "__main__":
    main()
