"""Settings that a user gave and that have no effect in this job, one sentence each."""

from __future__ import annotations

from collections.abc import Iterator

from tirazh.pipeline.classification.priors import BALANCED
from tirazh.pipeline.columns import kept_columns
from tirazh.pipeline.crossing.crossing import Crossing
from tirazh.pipeline.crossing.layouts import Draws
from tirazh.pipeline.crossing.load import files_of
from tirazh.pipeline.plan import Plan
from tirazh.pipeline.schema import KEEPABLE
from tirazh.pipeline.spec import ClassifySpec, GenerateSpec, JobSpec, flag_name, parse_replicas
from tirazh.pipeline.storage.filesystem import full_uri, is_remote


def unused_settings(spec: JobSpec, plan: Plan) -> list[str]:
    """Return one sentence for each setting without effect. `plan` is one that `plan_job` returned."""
    found = [*_of_all_jobs(spec, plan), *_of_the_model(spec, plan)]
    if isinstance(spec, GenerateSpec):
        found += _of_generate(spec, plan)
    if isinstance(spec, ClassifySpec):
        found += _of_classify(spec)
    return found


def _of_all_jobs(spec: JobSpec, plan: Plan) -> Iterator[str]:
    examples = spec.examples if isinstance(spec, ClassifySpec | GenerateSpec) else None
    named = [*spec.input, spec.output, *([examples] if examples is not None else [])]
    if isinstance(spec, GenerateSpec) and spec.vary is not None:
        named += files_of(spec.vary)
    if spec.endpoint_url is not None and not any(is_remote(full_uri(uri)) for uri in named):
        yield "--endpoint-url has no effect: input and output are local paths"
    most = parse_replicas(spec.replicas)[1]
    if most > len(plan.parts):
        parts = "one part, so one replica works" if len(plan.parts) == 1 else f"{len(plan.parts)} parts"
        yield f"--replicas {spec.replicas}: more replicas than parts have no effect; the job has {parts}"


def _of_the_model(spec: JobSpec, plan: Plan) -> Iterator[str]:
    config = plan.model.config if plan.model is not None else None
    if config is not None and config.sparse_mode == "none":
        for name in ("fix_sparsity_layout", "deepspeed_config"):
            if getattr(spec, name) is not None:
                yield f"{flag_name(name)} has no effect: the model has no layer with sparse attention"


def _of_generate(spec: GenerateSpec, plan: Plan) -> Iterator[str]:
    if plan.crossing is not None:
        yield from _of_the_crossing(plan, plan.crossing)
    # The column's default cannot be told from the same name given by the user.
    is_used = spec.template is None or spec.prompt_column in plan.job.source.columns.values()
    if not is_used and spec.prompt_column != "prompt":
        yield f"--prompt-column has no effect: the template does not use the column {spec.prompt_column!r}"
    kept = kept_columns(spec, plan.schema)
    for name in (name for name in KEEPABLE if name in spec.keep and name not in kept):
        yield f"--keep {name} has no effect: the input already has the column {name!r} that the rows are made of"
    if spec.samples == 1 and spec.samples_as == "lists":
        yield "--samples-as lists has no effect with --samples 1: a single completion is no list"
    if spec.temperature or "temperature" in plan.overrides:
        return
    defaults = {"seed": (0,), "top_k": (0,), "top_p": (0.0, 1.0), "min_p": (0.0,)}
    unused = [flag_name(name) for name, values in defaults.items() if getattr(spec, name) not in values]
    if unused:
        have = "has" if len(unused) == 1 else "have"
        yield f"{', '.join(unused)} {have} no effect with --temperature 0, which is greedy decoding"
    if spec.samples > 1:
        yield f"--samples {spec.samples} with --temperature 0 gives the same completion {spec.samples} times"


def _of_the_crossing(plan: Plan, crossing: Crossing) -> Iterator[str]:
    used = {*plan.job.source.columns.values(), *plan.overrides}
    unused = [name for name in crossing.names if name not in used]
    if unused:
        are, values = ("is", "its values") if len(unused) == 1 else ("are", "their values")
        yield f"--vary: {', '.join(unused)} {are} not used by the template; {values} only become columns"
    weighted = [each.name for each in crossing.lists if each.weights is not None]
    if weighted and not isinstance(crossing.layout, Draws):
        yield f"--vary: the weights of {', '.join(weighted)} have no effect with --per-cell, which makes every cell"


def _of_classify(spec: ClassifySpec) -> Iterator[str]:
    most = max(len(question.labels) for question in spec.asked)
    if spec.top is not None and spec.top >= most:
        yield f"--top {spec.top} keeps all {most} labels, the most likely first; leave it out to keep their order"
    if spec.priors == BALANCED and spec.calibration_file is None:
        yield "--priors balanced has no effect: without a fitted calibration the labels have equal shares already"
    least = 1 / len(spec.labels or spec.questions)
    if spec.labels is not None and 0 < spec.abstain_below <= least:
        yield (
            f"--abstain-below {spec.abstain_below:g} has no effect: the most likely of {len(spec.labels)} labels "
            f"always has a probability of at least {least:.2g}"
        )
