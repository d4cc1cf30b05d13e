"""How a job's prompts are made, settled once on the driver: template, few-shot examples, label tokens, shared prefix.

`build.py` calls `prepare_prompts`; the CPU tasks follow the `PromptConfig` (`prompts/encode.py`), the replicas the
`EngineJob`.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tirazh.errors import InputError, RequestError, RowError
from tirazh.model.requests import EngineJob
from tirazh.model.tokenizer import Tokenizer
from tirazh.pipeline import schema
from tirazh.pipeline.input.footers import check_text_column
from tirazh.pipeline.prompts.encode import PromptConfig, PromptWriter
from tirazh.pipeline.prompts.template import PromptTemplate
from tirazh.pipeline.spec import ClassifySpec, GenerateSpec, JobSpec
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage, full_uri

CLASSIFY_TEMPLATE = "{{ text }}\nТема:"
GENERATE_TEMPLATE = "{{ text }}"
DEFAULT_VARIABLE = "text"
BETWEEN_EXAMPLES = "\n\n"
# Texts that begin in every way that matters to a tokenizer: what their prompts share, all prompts of the job share.
PROBE_TEXTS = ("А", "z", "7", "«", "-", " ", "\n")
# A shorter prefix is cheaper to compute again than to look up.
MIN_SHARED_TOKENS = 16


@dataclass(frozen=True, slots=True)
class PreparedPrompts:
    """`calibration_ids` is the prompt without a text, empty unless the job calibrates."""

    plan: PromptConfig
    engine_job: EngineJob
    calibration_ids: tuple[int, ...]


def prepare_prompts(
    spec: JobSpec,
    tokenizer: Tokenizer,
    *,
    tokenizer_dir: str,
    seq_length: int,
    text_columns: Sequence[str],
    overrides: Sequence[str] = (),
) -> PreparedPrompts:
    """Settle how prompts are made. Raises RequestError or InputError for what can never work."""
    labels = _label_tokens(spec, tokenizer)
    plan = _plan_without_head(spec, tokenizer, labels, text_columns)
    plan = replace(plan, tokenizer_dir=tokenizer_dir, seq_length=seq_length, overrides=tuple(overrides))
    plan = _add_examples(plan, tokenizer, _examples_text(spec, plan))
    writer = PromptWriter(plan, tokenizer)
    prefix = _shared_prefix(writer.encode(_probes(writer)))
    _check_room(plan, len(prefix))
    blank: Sequence[int] = ()
    if isinstance(spec, ClassifySpec) and spec.calibrate:
        (blank,) = writer.encode([_fill(writer, "")])
        if not blank:
            raise RequestError("--calibrate needs a template with words of its own besides the text")
    return PreparedPrompts(plan, EngineJob(prefix_token_ids=prefix, labels=labels), tuple(blank))


def _plan_without_head(
    spec: JobSpec, tokenizer: Tokenizer, labels: Sequence[Sequence[int]], text_columns: Sequence[str]
) -> PromptConfig:
    if isinstance(spec, GenerateSpec):
        source, room, sampling, seed = GENERATE_TEMPLATE, spec.max_new_tokens, spec.sampling, spec.seed
    else:
        source, room, sampling, seed = CLASSIFY_TEMPLATE, max(map(len, labels)), None, 0
    columns = {DEFAULT_VARIABLE: text_columns[0]}
    if spec.template is not None:
        source = spec.template
        columns = {name: name for name in PromptTemplate(source).variables}
    return PromptConfig(
        tokenizer_dir="",
        template=source,
        columns=columns,
        text_variable=next(name for name, column in columns.items() if column == text_columns[0]),
        needs_text=isinstance(spec, ClassifySpec) or spec.template is None,
        head_ids=tokenizer.prefix_token_ids,
        head_text="",
        truncate=spec.truncate or ("error" if isinstance(spec, GenerateSpec) else "right"),
        seq_length=0,
        room=room,
        sampling=sampling,
        seed=seed,
        overrides=(),
    )


def _label_tokens(spec: JobSpec, tokenizer: Tokenizer) -> tuple[tuple[int, ...], ...]:
    """Every label's words as they continue a prompt: after one space."""
    if not isinstance(spec, ClassifySpec):
        return ()
    tokens = [tuple(ids) for ids in tokenizer.encode_many([" " + words.strip() for words in spec.labels.values()])]
    times = Counter(tokens)
    for label, ids in zip(spec.labels, tokens, strict=True):
        if not ids or times[ids] > 1:
            raise RequestError(f"--labels: the words of {label!r} are the same to the tokenizer as another label's")
    return tuple(tokens)


def _examples_text(spec: JobSpec, plan: PromptConfig) -> str:
    """All few-shot examples, each a prompt with its answer. Empty when there are none."""
    if not isinstance(spec, ClassifySpec) or spec.examples is None:
        return ""
    uri = full_uri(spec.examples)
    table = _read_examples(uri, Storage(spec.endpoint_url))
    for column in (*plan.columns.values(), schema.LABEL):
        check_text_column(table.schema, column, flag=f"in --examples {show_uri(uri)}")
    template = PromptTemplate(plan.template)
    shots = []
    for number, row in enumerate(table.to_pylist(), start=1):
        label = row[schema.LABEL]
        if label not in spec.labels:
            raise InputError(f"--examples, row {number}: {label!r} is none of the labels {', '.join(spec.labels)}")
        try:
            prompt = template.render({name: row[column] for name, column in plan.columns.items()})
        except RowError as error:
            raise InputError(f"--examples, row {number}: {error}") from None
        shots.append(f"{prompt.rstrip()} {spec.labels[label].strip()}")
    return BETWEEN_EXAMPLES.join(shots)


def _read_examples(uri: str, storage: Storage) -> pa.Table:
    try:
        return pq.read_table(io.BytesIO(storage.read(uri)))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"--examples {show_uri(uri)} is not a Parquet file: {error}") from error


def _add_examples(plan: PromptConfig, tokenizer: Tokenizer, examples: str) -> PromptConfig:
    """Put the examples before every prompt: as ready tokens where the tokenizer never joins them with what follows,
    which saves encoding them again for every row, else as text."""
    if not examples:
        return plan
    whole = PromptWriter(replace(plan, head_text=examples + BETWEEN_EXAMPLES), tokenizer)
    ready = replace(plan, head_ids=(*plan.head_ids, *tokenizer.encode(examples)), head_text=BETWEEN_EXAMPLES)
    probes = _probes(whole)
    is_same = whole.encode(probes) == PromptWriter(ready, tokenizer).encode(probes)
    return ready if is_same else whole.plan


def _probes(writer: PromptWriter) -> list[str]:
    return [_fill(writer, text) for text in PROBE_TEXTS]


def _fill(writer: PromptWriter, text: str) -> str:
    values: Mapping[str, Any] = dict.fromkeys(writer.plan.columns, text)
    return writer.render(values)


def _shared_prefix(prompts: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The tokens that all prompts begin with, if they are enough to be worth sharing."""
    first, shared = prompts[0], 0
    while shared < min(map(len, prompts)) and all(prompt[shared] == first[shared] for prompt in prompts):
        shared += 1
    return tuple(first[:shared]) if shared >= MIN_SHARED_TOKENS else ()


def _check_room(plan: PromptConfig, shared: int) -> None:
    if plan.sampling is not None and plan.sampling.max_new_tokens >= plan.seq_length:
        raise RequestError(
            f"--max-new-tokens {plan.sampling.max_new_tokens} leaves no room for a prompt: a sequence holds "
            f"{plan.seq_length} tokens"
        )
    if shared + plan.room >= plan.seq_length:
        raise RequestError(
            f"the examples and the template alone have {shared} tokens and a sequence holds {plan.seq_length}; "
            "give fewer examples or a larger --seq-length"
        )
