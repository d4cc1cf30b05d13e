"""Tunes a classify job: finds the settings that are best on a labelled file, and writes the job that has them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from tirazh.actors.cores import usable_cores
from tirazh.actors.local_replica import local_device, local_dtype, local_replica
from tirazh.actors.messages import ReplicaConfig
from tirazh.errors import RequestError
from tirazh.model.tokenizer import Tokenizer, load_tokenizer
from tirazh.pipeline.output.leases.lease import Tell
from tirazh.pipeline.prompts.prepare import PreparedPrompts, prepare_prompts
from tirazh.pipeline.prompts.source import PromptSource, prompt_source
from tirazh.pipeline.resolve import ResolvedJob, resolve_job
from tirazh.pipeline.spec import ClassifySpec
from tirazh.pipeline.storage.filesystem import full_uri
from tirazh.pipeline.tuning.budget import TokenBudget
from tirazh.pipeline.tuning.engine_scorer import Engine, EngineScorer
from tirazh.pipeline.tuning.facts import found_facts, header_of
from tirazh.pipeline.tuning.fitted import FittedScores, fit_scores
from tirazh.pipeline.tuning.halving import RungStart
from tirazh.pipeline.tuning.labelled_file import LabelledFile, some_texts, split_file
from tirazh.pipeline.tuning.output import TuneFiles, job_values
from tirazh.pipeline.tuning.sample import parse_gold
from tirazh.pipeline.tuning.search import Found, Search
from tirazh.pipeline.tuning.settings import TuneSettings, check_job
from tirazh.pipeline.tuning.space import PromptChoice, SearchSpace
from tirazh.pipeline.tuning.trial_jobs import job_space, score_spec, text_column_of, trial_spec


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """A job that is being tuned: `spec` as it was given, what is tried, and the labelled rows. `sources` are the
    templates of all prompts."""

    spec: ClassifySpec
    settings: TuneSettings
    job: ResolvedJob
    space: SearchSpace
    specs: Mapping[PromptChoice, ClassifySpec]
    sources: Mapping[PromptChoice, PromptSource]
    data: LabelledFile
    files: TuneFiles

    @contextmanager
    def replica(self, engine: str) -> Iterator[Engine]:
        """The model, in this process. `engine` is `ReplicaConfig.engine`."""
        spec = self.spec
        device = local_device(spec.device)
        config = ReplicaConfig(
            model=spec.model,
            fetch_model=self.job.remote_model,
            model_settings=spec.model_settings,
            dtype=local_dtype(device) if spec.dtype == "auto" else spec.dtype,
            device=device,
            slots=spec.slots_on(device),
            seq_length=self.job.seq_length,
            threads_per_rank=spec.threads or usable_cores(),
            engine=engine,
        )
        with local_replica(config, needed_bytes=self.job.model.weight_bytes) as replica:
            yield replica


def tune_job(
    spec: object,
    settings: TuneSettings,
    *,
    values: Mapping[str, Any],
    job_file: str | None = None,
    tell: Tell | None = None,
    engine: str = "model",
) -> dict[str, Any]:
    """Find the best settings of a classify job, and write the job, its examples, its calibration and the table.

    `values` are the settings as the job file has them, `job_file` its path. `tell` receives sentences about what is
    being done. `engine` is `ReplicaConfig.engine`. Returns the content of the table. Raises RequestError for a job or
    a labelled file that cannot be used, and for a budget that is too small.
    """
    say = tell or (lambda text: None)
    given = check_job(spec)
    files = TuneFiles.of(settings, job_file)
    say(f"reading the labelled rows of {settings.gold}")
    tuning = set_up(given, settings, files)
    say(f"loading the model {given.model}")
    budget = TokenBudget(settings.token_budget)
    with tuning.replica(engine) as replica:
        say(f"making the prompts of {len(tuning.space.prompts)} prompt settings")
        scorers, refused = make_scorers(tuning, replica)
        found = search_of(tuning, scorers).run(budget, _on_rung(budget, say))
    return write_found(tuning, found, budget, values, refused)


def set_up(given: ClassifySpec, settings: TuneSettings, files: TuneFiles) -> Tuning:
    """Read the labelled file, and decide what is tried on which of its rows. Raises RequestError or InputError."""
    job = resolve_job(given)
    uri = full_uri(settings.gold)
    table = parse_gold(uri, job.storage.read(uri))
    text_column = text_column_of(given, job.source)
    wanted = given.search if settings.search is None else settings.search
    space = job_space(given, wanted, text_column=text_column, texts=some_texts(table, text_column))
    specs = {prompt: trial_spec(given, prompt, examples=str(files.examples)) for prompt in space.prompts}
    sources = {prompt: prompt_source(spec) for prompt, spec in specs.items()}
    columns = dict.fromkeys([text_column, *(name for source in sources.values() for name in source.columns.values())])
    data = split_file(
        table,
        given,
        settings,
        columns=list(columns),
        text_column=text_column,
        examples=job.examples,
        shots=space.shots,
    )
    return Tuning(
        spec=given, settings=settings, job=job, space=space, specs=specs, sources=sources, data=data, files=files
    )


def search_of(tuning: Tuning, scorers: Mapping[PromptChoice, EngineScorer]) -> Search:
    """The search over these prompts."""
    labels = tuple(tuning.spec.labels or {})
    return Search(
        space=tuning.space,
        scorers=scorers,
        gold=tuning.data.rows.gold,
        split=tuning.data.split,
        labels=labels,
        metric=tuning.settings.metric,
        fit=partial(fit_scores, labels=labels),
        seed=tuning.settings.seed,
    )


def make_scorers(tuning: Tuning, engine: Engine) -> tuple[dict[PromptChoice, EngineScorer], dict[PromptChoice, str]]:
    """The scorers of all prompts, and for those that cannot be run the reason. Raises RequestError if the job as it was
    given cannot be run."""
    directory = tuning.job.model.tokenizer_dir
    tokenizer = load_tokenizer(directory, tuning.job.model_directory)
    pool = tuning.data.pool_bytes()
    scorers: dict[PromptChoice, EngineScorer] = {}
    refused: dict[PromptChoice, str] = {}
    for prompt in tuning.space.prompts:
        try:
            prepared = _prepare(tuning, prompt, tokenizer, pool)
            scorers[prompt] = EngineScorer(
                prepared, tuning.data.rows.table, tuning.data.used, engine, calibration=tuning.job.calibration
            )
        except RequestError as error:
            if prompt == tuning.space.prompts[0]:
                raise
            refused[prompt] = str(error)
    return scorers, refused


def _prepare(tuning: Tuning, prompt: PromptChoice, tokenizer: Tokenizer, pool: bytes) -> PreparedPrompts:
    """The prompts of a trial, with all that any scoring and calibration needs."""
    if (prompt.shots or 0) > tuning.data.pool.num_rows:
        raise RequestError(f"the labelled file gives {tuning.data.pool.num_rows} examples, fewer than {prompt.shots}")
    job = tuning.job

    def prepare(**changed: Any) -> PreparedPrompts:
        return prepare_prompts(
            replace(tuning.specs[prompt], scoring="pmi", **changed),
            tokenizer,
            tuning.sources[prompt],
            tokenizer_dir=job.tokenizer_name,
            seq_length=job.seq_length,
            examples=job.examples if prompt.shots is None else pool if prompt.shots else None,
        )

    try:
        return prepare(calibrate="contextual")
    except RequestError:  # nothing but the text, or examples that depend on it
        return prepare(calibrate=None)


def _on_rung(budget: TokenBudget, say: Tell) -> Callable[[RungStart], None]:
    began = time.monotonic()

    def on_rung(rung: RungStart) -> None:
        text = (
            f"rung {rung.number} of {rung.total}: {rung.left} prompt settings on {rung.rows} rows; "
            f"{budget.used:,} of {budget.limit:,} tokens used"
        )
        if budget.used:
            left_s = (time.monotonic() - began) / budget.used * (rung.tokens + budget.reserved)
            text += f", about {int(left_s) // 60}:{int(left_s) % 60:02d} left"
        say(text)

    return on_rung


def write_found(
    tuning: Tuning, found: Found, budget: TokenBudget, values: Mapping[str, Any], refused: Mapping[PromptChoice, str]
) -> dict[str, Any]:
    """Write the files of what was found, and return the content of the table."""
    files, winner = tuning.files, found.winner
    best = score_spec(tuning.specs[winner.prompt], winner.score, calibration=str(files.calibration))
    facts = found_facts(found, tuning.settings, budget, tuning.data, refused)
    changed = job_values(values, tuning.spec, best)
    facts["job"] = {name: value for name, value in changed.items() if value != values.get(name) or name == "kind"}
    if winner.prompt.shots:
        files.write_examples(tuning.data.pool)
    if isinstance(found.fitted, FittedScores):
        files.write_calibration(found.fitted.to_json(resolve_job(replace(best, calibrate=None))))
    facts["files"] = {"job": str(files.job), "table": str(files.table)}
    files.write_table(facts)
    files.write_job(changed, header_of(facts))
    return facts
