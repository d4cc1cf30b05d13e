"""The functions of `import tirazh`: what the commands of the same names do, with the same settings.

Imports that are slow (Ray, pyarrow) are made when a function is called.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from tirazh.jobs.api.keywords import (
    ClassifySettings,
    EmbedSettings,
    EvaluateOptions,
    FinetuneSettings,
    GenerateSettings,
    ScoreSettings,
)
from tirazh.jobs.api.results import Evaluation, JobPlan, Manifest, Preview, Report, TrainingManifest
from tirazh.jobs.api.signature import documented
from tirazh.jobs.api.tables import table_as_file
from tirazh.jobs.job_files.job_file import job_of, spec_from_file, spec_of
from tirazh.jobs.planning import plan_facts
from tirazh.jobs.progress import JobProgressDisplay, Style
from tirazh.jobs.run import run as run_spec
from tirazh.jobs.settings import build_finetune_spec, build_spec

if TYPE_CHECKING:
    from tirazh.pipeline.output.verify import Verification
    from tirazh.pipeline.spec import JobSpec, StepsSpec


@documented("classify", ClassifySettings)
def classify(*, progress: Style = "quiet", **settings: Unpack[ClassifySettings]) -> Manifest:
    """Label every row of some Parquet files or of a table in memory.

    The call returns when every part is written. Calling it again with the same settings resumes:
    finished parts are kept, and a finished job returns its manifest at once.

        tirazh.classify(input="news/*.parquet", output="labelled", labels=["economics", "sport"])

    `input` may be a `polars.DataFrame`, a `pyarrow.Table` or another table with the Arrow C stream
    interface, of at most 256 MiB. It is written to `_NAME-input/table-HASH.parquet` beside the
    output directory NAME. HASH depends on the content, so that the same table resumes the same job.
    Remove that directory together with the output.

    Args:
        progress: "quiet" shows nothing, "bar" a live bar and "lines" a line every ten seconds; on
            stderr.
        **settings: the options of `tirazh classify`, with _ for -. `labels` is a list, a mapping of
            each label to the words that the model continues with, a comma-separated string or the
            path of a YAML file.

    Returns:
        The manifest of the finished job.

    Raises:
        RequestError: a setting, the model, the input or the output cannot be used. Nothing was
            started.
        JobError: the job was started and failed. Finished parts are kept.
    """
    return Manifest(_run("classify", settings, progress))


@documented("generate", GenerateSettings)
def generate(*, progress: Style = "quiet", **settings: Unpack[GenerateSettings]) -> Manifest:
    """Generate a completion for every prompt of some Parquet files or of a table in memory.

    The call returns when every part is written. Calling it again with the same settings resumes:
    finished parts are kept, and a finished job returns its manifest at once.

        tirazh.generate(input="prompts.parquet", output="completions", max_new_tokens=64)

    `input` may be a `polars.DataFrame`, a `pyarrow.Table` or another table with the Arrow C stream
    interface, of at most 256 MiB. It is written to `_NAME-input/table-HASH.parquet` beside the
    output directory NAME. HASH depends on the content, so that the same table resumes the same job.
    Remove that directory together with the output.

    Args:
        progress: "quiet" shows nothing, "bar" a live bar and "lines" a line every ten seconds; on
            stderr.
        **settings: the options of `tirazh generate`, with _ for -.

    Returns:
        The manifest of the finished job.

    Raises:
        RequestError: a setting, the model, the input or the output cannot be used. Nothing was
            started.
        JobError: the job was started and failed. Finished parts are kept.
    """
    return Manifest(_run("generate", settings, progress))


@documented("score", ScoreSettings)
def score(*, progress: Style = "quiet", **settings: Unpack[ScoreSettings]) -> Manifest:
    """Compute the log-likelihood of every text of some Parquet files or of a table in memory.

    The call returns when every part is written. Calling it again with the same settings resumes:
    finished parts are kept, and a finished job returns its manifest at once.

        tirazh.score(input="texts.parquet", output="scored", text_column="text")

    `input` may be a `polars.DataFrame`, a `pyarrow.Table` or another table with the Arrow C stream
    interface, of at most 256 MiB. It is written to `_NAME-input/table-HASH.parquet` beside the
    output directory NAME. HASH depends on the content, so that the same table resumes the same job.
    Remove that directory together with the output.

    Args:
        progress: "quiet" shows nothing, "bar" a live bar and "lines" a line every ten seconds; on
            stderr.
        **settings: the options of `tirazh score`, with _ for -.

    Returns:
        The manifest of the finished job.

    Raises:
        RequestError: a setting, the model, the input or the output cannot be used. Nothing was
            started.
        JobError: the job was started and failed. Finished parts are kept.
    """
    return Manifest(_run("score", settings, progress))


@documented("embed", EmbedSettings)
def embed(*, progress: Style = "quiet", **settings: Unpack[EmbedSettings]) -> Manifest:
    """Write the model's last hidden state of every text of some Parquet files or of a table in memory.

    The call returns when every part is written. Calling it again with the same settings resumes:
    finished parts are kept, and a finished job returns its manifest at once.

        tirazh.embed(input="texts.parquet", output="embedded", text_column="text")

    `input` may be a `polars.DataFrame`, a `pyarrow.Table` or another table with the Arrow C stream
    interface, of at most 256 MiB. It is written to `_NAME-input/table-HASH.parquet` beside the
    output directory NAME. HASH depends on the content, so that the same table resumes the same job.
    Remove that directory together with the output.

    Args:
        progress: "quiet" shows nothing, "bar" a live bar and "lines" a line every ten seconds; on
            stderr.
        **settings: the options of `tirazh embed`, with _ for -.

    Returns:
        The manifest of the finished job.

    Raises:
        RequestError: a setting, the model, the input or the output cannot be used. Nothing was
            started.
        JobError: the job was started and failed. Finished parts are kept.
    """
    return Manifest(_run("embed", settings, progress))


@documented("finetune", FinetuneSettings)
def finetune(*, progress: Style = "quiet", **settings: Unpack[FinetuneSettings]) -> TrainingManifest:
    """Train a model further on texts, or on prompts with their completions.

    The call returns when the trained model is written to the output directory. Calling it again
    with the same settings resumes from the last checkpoint; a finished training run returns its
    manifest at once.

        tirazh.finetune(model="rugpt3xl", input="texts.parquet", output="my-model", epochs=3)

    Args:
        progress: "quiet" shows nothing, "bar" a live bar and "lines" a line every ten seconds; on
            stderr.
        **settings: the options of `tirazh finetune`, with _ for -.

    Returns:
        The manifest of the finished training run.

    Raises:
        RequestError: a setting, the model, the input or the output cannot be used. Nothing was
            started.
        JobError: training was started and failed. The last checkpoint is kept.
    """
    spec = build_finetune_spec(settings)
    from tirazh.jobs.training_progress import TrainingDisplay
    from tirazh.pipeline.finetune.run import run_finetune

    with TrainingDisplay(progress) as display:
        return TrainingManifest(run_finetune(spec, on_progress=display.show, tell=display.say))


def run(job: str | os.PathLike[str] | Mapping[str, Any], *, progress: Style = "quiet") -> Manifest:
    """Run a job file over rows, or a mapping with the same keys: of one step, or of several.

    The call returns when every part is written. Calling it again resumes: finished parts of all steps are kept, and a
    finished job returns its manifest at once.

        tirazh.run("job.yaml")
        tirazh.run({"kind": "steps", "output": "out", "input": "topics.parquet", "steps": [...]})

    Args:
        job: path of a job file, or its content.
        progress: "quiet" shows nothing, "bar" a live bar and "lines" a line every ten seconds; on
            stderr.

    Returns:
        The manifest of the finished job. Of a job of several steps it has a summary of each in `steps`.

    Raises:
        RequestError: a setting, a model, the input or the output cannot be used. Nothing was started.
        JobError: the job was started and failed. Finished parts are kept.
    """
    return Manifest(run_spec(_spec_of(job), JobProgressDisplay(progress)))


@overload
def plan(kind: Literal["classify"], **settings: Unpack[ClassifySettings]) -> JobPlan: ...
@overload
def plan(kind: Literal["generate"], **settings: Unpack[GenerateSettings]) -> JobPlan: ...
@overload
def plan(kind: Literal["score"], **settings: Unpack[ScoreSettings]) -> JobPlan: ...
@overload
def plan(kind: Literal["embed"], **settings: Unpack[EmbedSettings]) -> JobPlan: ...
def plan(kind: Literal["classify", "generate", "score", "embed"], **settings: Any) -> JobPlan:
    """Check a job without starting it, and estimate its parts, tokens, memory and time.

    Reads the headers of the model's files and the footers of the input files, measures the tokens of some hundred
    rows, and looks at the output: whether the job would start it, resume it, find it complete or replace it.
    Starts no Ray, loads no weights and changes nothing.

        tirazh.plan("generate", input="prompts.parquet", output="completions")

    Args:
        kind: the function that would run the job.
        **settings: the settings of that function. An `input` table is written to its file, as that
            function does.

    Returns:
        The job in numbers.

    Raises:
        RequestError: the job cannot run as it is.
    """
    with table_as_file(settings) as values:
        return JobPlan(plan_facts(build_spec(kind, values)))


@overload
def preview(kind: Literal["classify"], *, count: int = 8, **settings: Unpack[ClassifySettings]) -> Preview: ...
@overload
def preview(kind: Literal["generate"], *, count: int = 8, **settings: Unpack[GenerateSettings]) -> Preview: ...
@overload
def preview(kind: Literal["score"], *, count: int = 8, **settings: Unpack[ScoreSettings]) -> Preview: ...
@overload
def preview(kind: Literal["embed"], *, count: int = 8, **settings: Unpack[EmbedSettings]) -> Preview: ...
def preview(kind: Literal["classify", "generate", "score", "embed"], *, count: int = 8, **settings: Any) -> Preview:
    """Make a few rows of a job in this process, without Ray, and forecast the job.

    The rows are spread over the whole input, and are those that the job writes, to the last bit. Loads the model;
    writes nothing.

        tirazh.preview("generate", input="prompts.parquet", output="completions").rows[0]["output"]

    Args:
        kind: the function that would run the job.
        count: rows to make.
        **settings: the settings of that function. An `input` table is written to its file, as that
            function does.

    Returns:
        The rows, and the forecast.

    Raises:
        RequestError: the job cannot run as it is, or its model does not fit in this process's memory.
    """
    with table_as_file(settings) as values:
        spec = build_spec(kind, values)
        from tirazh.pipeline.preview.steps import preview_spec

        return Preview(preview_spec(spec, rows=count))


def verify(
    output: str | os.PathLike[str], *, endpoint_url: str | None = None, skip_input: bool = False
) -> Verification:
    """Check that every input row is in an output exactly once and that every file is intact.

    Reads every file of the output completely. Lists the input, and compares files that were written again
    with the output row by row.

    Args:
        output: directory that `classify`, `generate`, `score` or `embed` wrote.
        endpoint_url: address of an S3-compatible server or an Azure emulator.
        skip_input: do not compare the output with the current input, e.g. because it was archived.

    Returns:
        The numbers of rows and parts, expected and found, and `problems`, one sentence each.
        `is_whole` is true when there are none. `notes` are sentences about what is no problem.

    Raises:
        OutputError: the directory holds no job's output.
    """
    from tirazh.pipeline.steps.verify import verify_output

    return verify_output(os.fspath(output), endpoint_url=endpoint_url, skip_input=skip_input)


def report(
    output: str | os.PathLike[str],
    *,
    against: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    key: str | None = None,
    endpoint_url: str | None = None,
) -> Report:
    """Write the HTML report of a finished job again, and compare the job with others.

        tirazh.report("labelled/2026-11-30", against="labelled/2026-11-2*").verdict

    Args:
        output: directory that `classify`, `generate`, `score` or `embed` wrote.
        against: output directories of the jobs to compare with, together one baseline, or patterns of them.
        key: column that names a row in all outputs, to find rows whose label changed (default: the job's key, else the
            columns that its prompts are made from).
        endpoint_url: address of an S3-compatible server or an Azure emulator.

    Returns:
        The figures that the page shows and, with `against`, what changed beyond chance. It is also the path of the
        page for `open`.

    Raises:
        OutputError: one of the directories holds no finished job, or is `output` itself.
        InputError: a part is damaged.
    """
    from tirazh.pipeline.drift.run import report_output

    given = [] if against is None else [against] if isinstance(against, str | os.PathLike) else list(against)
    others = [os.fspath(each) for each in given]
    found = report_output(os.fspath(output), against=others, key=key, endpoint_url=endpoint_url, with_figures=True)
    return Report(found.to_dict())


def evaluate(
    output: str | os.PathLike[str],
    *,
    gold: str | os.PathLike[str] | None = None,
    key: str | None = None,
    gold_label: str | None = None,
    gold_column: str | None = None,
    **options: Unpack[EvaluateOptions],
) -> Evaluation:
    """Measure the labels of a finished output of `classify` against gold labels, without Ray and without the model.

        tirazh.evaluate("labelled", gold="gold.parquet", key="id").macro_f1

    Gold labels are in a file, or in a column of the output; by default in the job's `gold_column`. Rows with an error,
    without a gold label, or with one that the job does not have are counted apart (`counts`).

    Args:
        output: directory that `classify` wrote.
        gold: Parquet, CSV or JSONL file with gold labels.
        key: column of the output and of `gold` that names a row.
        gold_label: column of `gold` with the gold label (default: `label`).
        gold_column: column of the output with the gold label.
        **options: `against`, the output of another run, to compare with; `question`, which one of a job with several;
            `seed` of the bootstrap intervals; `endpoint_url` of an S3-compatible server; `write=False`, to leave out
            `OUTPUT/_tirazh/evaluation.json` and the report, which shows the figures.

    Returns:
        Accuracy, F1, calibration and coverage with 95 % intervals, the figures of each label and the confusion matrix.

    Raises:
        OutputError: the directory holds no finished job of classify.
        InputError: a column or the gold file cannot be used, or a key has two different gold labels.
        RequestError: no row has a gold label.
    """
    from tirazh.pipeline.gold.read import GoldSource
    from tirazh.pipeline.gold.run import evaluate_output

    file = None if gold is None else os.fspath(gold)
    source = GoldSource(file=file, key=key, label=gold_label, column=gold_column)
    given: dict[str, Any] = {**options}
    if given.get("against") is not None:
        given["against"] = os.fspath(given["against"])
    return Evaluation(evaluate_output(os.fspath(output), source, **given))


def _spec_of(job: str | os.PathLike[str] | Mapping[str, Any]) -> JobSpec | StepsSpec:
    if not isinstance(job, Mapping):
        return spec_from_file(job)
    return spec_of(job_of(job))


def _run(kind: str, settings: Mapping[str, Any], progress: Style) -> dict[str, Any]:
    with table_as_file(settings) as values:
        return run_spec(build_spec(kind, values), JobProgressDisplay(progress))
