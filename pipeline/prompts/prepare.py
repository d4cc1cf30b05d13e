"""Decides on the driver how a job's prompts are made: few-shot examples, label tokens and the shared prefix.

CPU tasks make prompts by the resulting `PromptConfig`, replicas receive the `EngineJob`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tirazh.errors import InputError, RequestError, RowError
from tirazh.model.requests import EngineJob
from tirazh.model.tokenizer import Tokenizer
from tirazh.pipeline import schema
from tirazh.pipeline.classification.labels import words_of
from tirazh.pipeline.input.footers import check_text_column
from tirazh.pipeline.input.texts import BrokenText, values_of
from tirazh.pipeline.prompts.control_marks import choose_marks, holds_any
from tirazh.pipeline.prompts.encode import PromptConfig, PromptWriter
from tirazh.pipeline.prompts.examples_file import parse_examples
from tirazh.pipeline.prompts.label_tokens import encode_labels, end_tokens, find_boundary
from tirazh.pipeline.prompts.labelled_examples import parse_labelled
from tirazh.pipeline.prompts.sampled_tokens import with_tokens
from tirazh.pipeline.prompts.score_texts import shared_context
from tirazh.pipeline.prompts.shots import EXAMPLES, load_shots
from tirazh.pipeline.prompts.source import PromptSource
from tirazh.pipeline.prompts.template import PromptTemplate
from tirazh.pipeline.spec import ClassifySpec, EmbedSpec, GenerateSpec, JobSpec, ScoreSpec
from tirazh.pipeline.storage.errors import show_uri

BETWEEN_EXAMPLES = "\n\n"
# Texts whose first characters are of every class that a tokenizer treats differently. The tokens
# that their prompts have in common at the beginning are common to all prompts of the job.
PROBE_TEXTS = ("А", "z", "7", "«", "-", " ", "\n")
# Computing a shorter prefix again for each row is cheaper than looking it up.
MIN_SHARED_TOKENS = 16


@dataclass(frozen=True, slots=True)
class PreparedPrompts:
    """`calibration_ids` are the tokens of the prompt with an empty text; empty without --calibrate."""

    config: PromptConfig
    engine_job: EngineJob
    calibration_ids: tuple[int, ...]


def prepare_prompts(
    spec: JobSpec,
    tokenizer: Tokenizer,
    source: PromptSource,
    *,
    tokenizer_dir: str,
    seq_length: int,
    examples: bytes | None = None,
    overrides: Sequence[str] = (),
) -> PreparedPrompts:
    """Build the prompt configuration and the engine's job.

    `examples` is the content of the few-shot Parquet file. `overrides` are the input columns that set a
    row's own sampling parameters. Raises RequestError or InputError for settings that no row can
    satisfy.
    """
    config = _config_without_examples(spec, tokenizer, source)
    config = replace(config, tokenizer_dir=tokenizer_dir, seq_length=seq_length, overrides=tuple(overrides))
    labels: tuple[tuple[int, ...], ...] = ()
    ends: tuple[int, ...] = ()
    has_head = isinstance(spec, ClassifySpec) and spec.head is not None
    if isinstance(spec, ClassifySpec) and has_head:
        _check_labelled(spec, config, examples)
    elif isinstance(spec, ClassifySpec):
        config, labels = with_labels(config, tokenizer, words_of(spec.labels or {}))
        ends = label_ends(config, tokenizer, labels)
    if isinstance(spec, ScoreSpec):
        return _prepare_texts(config, tokenizer)
    if isinstance(spec, GenerateSpec) and spec.examples is not None and examples is not None:
        shots = load_shots(spec.examples, examples, spec.shots, config.template, config.columns)
        config = replace(config, shots=shots)
    config = _add_examples(config, tokenizer, "" if has_head else _examples_text(spec, config, examples))
    writer = PromptWriter(replace(config, boundary=None), tokenizer)
    prefix = _shared_prefix(writer.encode(_probes(writer)))
    if isinstance(spec, EmbedSpec) and spec.pooling == "mean":
        prefix = ()  # the engine leaves the tokens of a shared prefix out of the mean
    _check_capacity(config, len(prefix))
    calibration: Sequence[int] = ()
    if isinstance(spec, ClassifySpec) and spec.calibrate:
        (calibration,) = writer.encode([_fill(writer, "")])
        if not calibration:
            raise RequestError("--calibrate needs a template that contains more than the text itself")
    job = EngineJob(prefix_token_ids=prefix, labels=labels, label_ends=ends)
    return PreparedPrompts(config, job, tuple(calibration))


def _check_labelled(spec: ClassifySpec, config: PromptConfig, examples: bytes | None) -> None:
    """Raise InputError or RequestError for examples on which no head can be fitted."""
    if spec.examples is not None and examples is not None:
        columns = tuple(config.columns.values())
        parse_labelled(
            spec.examples, examples, columns=columns, text_column=spec.text_column, labels=tuple(spec.labels or ())
        )


def _prepare_texts(config: PromptConfig, tokenizer: Tokenizer) -> PreparedPrompts:
    try:
        prefix = shared_context(config, tokenizer, PROBE_TEXTS)
    except RowError as error:
        hint = "give a shorter --template or a larger --seq-length"
        raise RequestError(f"no text can be scored: {error}; {hint}") from None
    job = EngineJob(prefix_token_ids=prefix if len(prefix) >= MIN_SHARED_TOKENS else ())
    return PreparedPrompts(replace(config, scores_text=True), job, ())


def mark_template(template: PromptTemplate, tokenizer: Tokenizer) -> PromptTemplate:
    """Make the names of control tokens that a template prints control tokens. Raises RequestError."""
    marks = choose_marks(template.source, tokenizer.control_tokens)
    if marks is None:
        raise RequestError("--template contains too many private-use characters beside control tokens; remove them")
    return PromptTemplate(template.source, marks) if marks else template


def with_labels(
    config: PromptConfig, tokenizer: Tokenizer, labels: Mapping[str, str]
) -> tuple[PromptConfig, tuple[tuple[int, ...], ...]]:
    """Return the tokens of every label, and the configuration of prompts before which there is space for them.

    Raises RequestError for labels without tokens or with equal ones.
    """
    writer = PromptWriter(config, tokenizer)
    ids = encode_labels(labels, writer.encode, _fill(writer, PROBE_TEXTS[0]))
    # Labels are scored after the prompt, so the longest one must fit.
    config = replace(config, reserved_tokens=max(map(len, ids)))
    boundary = find_boundary(
        labels,
        ids,
        tokenizer,
        encode=writer.encode,
        fill=lambda text: _fill(writer, text),
        ends_with_row=config.template.source.rstrip().endswith("}"),
    )
    return replace(config, boundary=boundary), ids


def label_ends(config: PromptConfig, tokenizer: Tokenizer, labels: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Return the tokens that end a label; empty where the labels' ends are not scored."""
    return end_tokens(labels, tokenizer, [tokenizer.control_tokens[name] for name in config.template.marks])


def _config_without_examples(spec: JobSpec, tokenizer: Tokenizer, source: PromptSource) -> PromptConfig:
    reserved, sampling, seed, keeps_text = 0, None, 0, False
    if isinstance(spec, GenerateSpec):
        reserved, seed = spec.max_new_tokens, spec.seed
        sampling, keeps_text = with_tokens(spec, tokenizer), schema.PROMPT in spec.keep
    return PromptConfig(
        tokenizer_dir="",
        template=mark_template(source.template, tokenizer),
        columns=source.columns,
        content_columns=source.content_columns,
        text_variable=source.text_variable,
        needs_text=isinstance(spec, ClassifySpec | EmbedSpec) or source.is_default,
        head_ids=tokenizer.prefix_token_ids,
        head_text="",
        truncate=spec.chosen_truncate,
        seq_length=0,
        reserved_tokens=reserved,
        sampling=sampling,
        seed=seed,
        overrides=(),
        keeps_text=keeps_text,
    )


def _examples_text(spec: JobSpec, config: PromptConfig, examples: bytes | None) -> str:
    """Render all few-shot examples, each a prompt with its label. Empty without --examples."""
    if not isinstance(spec, ClassifySpec) or spec.examples is None or examples is None:
        return ""
    table = parse_examples(spec.examples, examples)
    words = words_of(spec.labels or {})
    for column in (*config.columns.values(), schema.LABEL):
        check_text_column(table.schema, column, flag=f"in --examples {show_uri(spec.examples)}")
    shots = []
    names = list(dict.fromkeys((*config.columns.values(), schema.LABEL)))
    for number, values in enumerate(zip(*(values_of(table.column(name)) for name in names), strict=True), start=1):
        row = dict(zip(names, values, strict=True))
        broken = next((name for name in names if isinstance(row[name], BrokenText)), None)
        if broken is not None:
            raise InputError(f"--examples, row {number}: column {broken!r} {row[broken].reason}")
        label = row[schema.LABEL]
        if label not in words:
            raise InputError(f"--examples, row {number}: {label!r} is not one of the labels {', '.join(words)}")
        variables = {name: row[column] for name, column in config.columns.items()}
        if holds_any({**variables, schema.LABEL: words[label]}, config.template.marks):
            raise InputError(f"--examples, row {number} contains a private-use character; remove it")
        try:
            prompt = config.template.render(variables)
        except RowError as error:
            raise InputError(f"--examples, row {number}: {error}") from None
        shots.append(f"{prompt.rstrip()} {words[label].strip()}")
    return BETWEEN_EXAMPLES.join(shots)


def _add_examples(config: PromptConfig, tokenizer: Tokenizer, examples: str) -> PromptConfig:
    """Put the examples before every prompt.

    They are added as token ids if the tokenizer never merges them with the text that follows, so that
    they are not tokenised again for every row; otherwise as text.
    """
    if not examples:
        return config
    as_text = replace(config, head_text=examples + BETWEEN_EXAMPLES)
    (head_ids,) = PromptWriter(config, tokenizer).encode([examples])
    as_ids = replace(config, head_ids=tuple(head_ids), head_text=BETWEEN_EXAMPLES)
    # A tokenizer that merges the line breaks with the following text gives different tokens for one
    # of the probes.
    by_text, by_ids = (PromptWriter(replace(each, boundary=None), tokenizer) for each in (as_text, as_ids))
    probes = _probes(by_text)
    return as_ids if by_text.encode(probes) == by_ids.encode(probes) else as_text


def _probes(writer: PromptWriter) -> list[str]:
    return [_fill(writer, text) for text in PROBE_TEXTS]


def _fill(writer: PromptWriter, text: str) -> str:
    template = writer.config.template
    names = [*writer.config.columns, *([EXAMPLES] if writer.config.shots is not None else [])]
    return writer.render({name: template.probe(name, text) for name in names})


def _shared_prefix(prompts: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The longest common prefix of all prompts, or an empty one below `MIN_SHARED_TOKENS`."""
    first, shared = prompts[0], 0
    while shared < min(map(len, prompts)) and all(prompt[shared] == first[shared] for prompt in prompts):
        shared += 1
    return tuple(first[:shared]) if shared >= MIN_SHARED_TOKENS else ()


def _check_capacity(config: PromptConfig, shared: int) -> None:
    if config.sampling is not None and config.sampling.max_new_tokens >= config.seq_length:
        raise RequestError(
            f"--max-new-tokens {config.sampling.max_new_tokens} leaves no space for a prompt: the sequence length is "
            f"{config.seq_length} tokens"
        )
    if shared + config.reserved_tokens >= config.seq_length:
        raise RequestError(
            f"the examples and the template alone have {shared} tokens, but the sequence length is "
            f"{config.seq_length}; give fewer examples or a larger --seq-length"
        )
