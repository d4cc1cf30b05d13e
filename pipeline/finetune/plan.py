"""Plans a training run: checks model, files and columns, and decides the sequence length.

Reads model headers and Parquet footers only, and writes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tirazh.errors import RequestError
from tirazh.model.checkpoints.directory import ModelSummary, describe, resolve_model
from tirazh.model.config import ModelConfig, ModelSettings
from tirazh.model.requests import SamplingParams
from tirazh.model.tokenizer import Tokenizer, load_tokenizer
from tirazh.model.training.config import STEPS_VERSION
from tirazh.model.training.lora import check_peft
from tirazh.pipeline.classification.labels import Label, words_of
from tirazh.pipeline.classification.questions import Question
from tirazh.pipeline.finetune.conversations import ConversationMaker, check_messages_column
from tirazh.pipeline.finetune.corpus import (
    DocumentMaker,
    InputFiles,
    LabelledPromptMaker,
    PairMaker,
    TextMaker,
    WeightedInput,
)
from tirazh.pipeline.finetune.output import TrainingOutput
from tirazh.pipeline.finetune.remote.output import open_output, working_directory
from tirazh.pipeline.finetune.spec import FinetuneSpec
from tirazh.pipeline.finetune.start import TrainingStart, find_start
from tirazh.pipeline.input.footers import check_text_column, read_footers
from tirazh.pipeline.input.listing.files import find_inputs
from tirazh.pipeline.input.ranges import range_reader
from tirazh.pipeline.input.unify import unify
from tirazh.pipeline.prompts.encode import PromptConfig, PromptWriter
from tirazh.pipeline.prompts.label_prompts import label_ends, with_labels
from tirazh.pipeline.prompts.label_tokens import LabelTokens
from tirazh.pipeline.prompts.prepare import mark_template
from tirazh.pipeline.prompts.source import CLASSIFY_TEMPLATE, GENERATE_TEMPLATE, PromptSource, build_source
from tirazh.pipeline.prompts.template import check_variables
from tirazh.pipeline.schema import LABEL
from tirazh.pipeline.shared_settings import Truncate
from tirazh.pipeline.storage.errors import show_uri
from tirazh.pipeline.storage.filesystem import Storage, full_uri

# The model settings that are paths.
_SETTINGS_PATHS = ("deepspeed_config", "tokenizer")


@dataclass(frozen=True, kw_only=True)
class FinetunePlan:
    """A checked request.

    `output` is an absolute path or a URI; `evaluation` and `labelled` are None when not requested, as is `start`, the
    checkpoint of another training. `sources` are the inputs that --input-weights mixes.
    """

    spec: FinetuneSpec
    source: PromptSource
    output: str
    storage: Storage
    model: ModelSummary
    config: ModelConfig
    tokenizer: Tokenizer
    seq_length: int
    packing: str
    training: InputFiles
    evaluation: InputFiles | None
    labelled: InputFiles | None
    start: TrainingStart | None = None
    sources: tuple[WeightedInput, ...] = ()

    @property
    def folder(self) -> Path:
        """The directory on a disk where the training works: its output, where that is on a disk."""
        return working_directory(self.output, self.spec.work_dir)

    def open_output(self) -> TrainingOutput:
        """Return the output: which requests and models it holds."""
        return open_output(self.output, self.storage, self.spec.work_dir)

    def identity(self) -> dict[str, Any]:
        """Return what determines the trained weights: settings, model fingerprint, and input files as listed.

        Paths are absolute and defaults are filled in, so that another spelling of a request is the
        same training.
        """
        spec = self.spec
        settings = {
            "input": [full_uri(uri) for uri in spec.input],
            "model": absolute_model(spec.model),
            "seq_length": self.seq_length,
            "packing": self.packing,
            "steps_version": STEPS_VERSION,
            "template": self.source.template.source if spec.has_pairs else None,
            "truncate": self._truncate if spec.has_pairs else None,
        }
        files = [[file.uri, file.size, file.version] for file in self.training.files]
        own = {name: value for name, value in spec.identity().items() if name != "from_checkpoint"}
        return (
            own
            | self._identity_of_start()
            | self._identity_of_evaluations()
            | {name: getattr(absolute_settings(spec.model_settings), name) for name in _SETTINGS_PATHS}
            | settings
            | {"model_fingerprint": self.model.fingerprint, "files": files}
        )

    def _identity_of_start(self) -> dict[str, Any]:
        """The checkpoint itself, however it was named and wherever it lies."""
        return {} if self.start is None else {"from_checkpoint": [self.start.training, self.start.step]}

    def _identity_of_evaluations(self) -> dict[str, Any]:
        """What evaluations measure, where they decide which weights become the model."""
        spec = self.spec
        if not spec.selection().is_needed:
            return {}
        inputs = {
            "eval_input": [full_uri(uri) for uri in spec.eval_input],
            "label_input": [full_uri(uri) for uri in spec.label_input],
        }
        return inputs | {"eval_steps": spec.eval_steps, "eval_limit": spec.eval_limit}

    def documents(self) -> DocumentMaker:
        """Return the maker of the documents for training and evaluation."""
        if self.spec.messages_column is not None:
            return ConversationMaker(self.tokenizer, self.spec.messages_column, self.seq_length + 1)
        if not self.spec.has_pairs:
            return TextMaker(self.tokenizer, self.spec.text_column)
        column = self.spec.completion_column
        assert column is not None
        writer = PromptWriter(self._prompt_config(seq_length=self.seq_length + 1, room=0), self.tokenizer)
        return PairMaker(writer, self.tokenizer, column, self._words)

    def labelled_prompts(self) -> LabelledPromptMaker:
        """Return the maker of the prompts whose gold label is known."""
        assert self.spec.labels is not None
        config, _ = self._with_labels()
        return LabelledPromptMaker(
            PromptWriter(config, self.tokenizer), _label_column(self.spec), tuple(self.spec.labels)
        )

    def label_tokens(self) -> tuple[tuple[int, ...], ...]:
        """Return the tokens of every label's words.

        Raises RequestError when two labels have the same tokens.
        """
        return self._with_labels()[1].entries if self.spec.labels else ()

    def label_ends(self) -> tuple[int, ...]:
        """Return the tokens that end a label; empty where the labels' ends are not scored."""
        config, labels = self._with_labels()
        return label_ends(config, self.tokenizer, labels)

    @property
    def _words(self) -> dict[str, str] | None:
        return words_of(self.spec.labels) if self.spec.labels else None

    def _with_labels(self) -> tuple[PromptConfig, LabelTokens]:
        config = self._prompt_config(seq_length=self.seq_length, room=0)
        labels = tuple(Label(name, words) for name, words in (self._words or {}).items())
        return with_labels(config, self.tokenizer, [Question(name="", labels=labels)])

    @property
    def _truncate(self) -> Truncate:
        return self.spec.truncate or ("right" if self.spec.labels else "error")

    def _prompt_config(self, *, seq_length: int, room: int) -> PromptConfig:
        spec = self.spec
        return PromptConfig(
            tokenizer_dir="",
            template=mark_template(self.source.template, self.tokenizer),
            columns=self.source.columns,
            text_variable=self.source.text_variable,
            needs_text=True,
            head_ids=self.tokenizer.prefix_token_ids,
            head_text="",
            truncate=self._truncate,
            seq_length=seq_length,
            reserved_tokens=room,
            # classify strips white space at the end of a prompt, before the label's space; generate
            # keeps it.
            sampling=None if spec.labels else SamplingParams(),
            seed=0,
            overrides=(),
        )


def plan_finetune(spec: FinetuneSpec) -> FinetunePlan:
    """Plan a training run; writes nothing.

    Raises RequestError, InputError or CheckpointError for a wrong request.
    """
    output = full_uri(spec.output)
    storage = Storage(spec.endpoint_url)
    model = describe(spec.model, spec.model_settings)
    if model.config is None:
        raise RequestError(f"--model {spec.model} is not a ruGPT-3, which finetune needs; give another model")
    tokenizer = load_tokenizer(model.tokenizer_dir, resolve_model(spec.model))
    if tokenizer.size > model.config.vocab_size:
        raise RequestError(
            f"the tokenizer has {tokenizer.size} tokens, but the model's vocabulary only {model.config.vocab_size}; "
            "give the model's own tokenizer with --tokenizer"
        )
    if spec.lora_rank:
        check_peft()
    positions = model.config.max_position_embeddings
    if spec.seq_length is not None and spec.seq_length > positions:
        raise RequestError(f"--seq-length {spec.seq_length} is more than the model's {positions} positions")
    listed = _list(spec.input, storage)
    training = listed.inputs
    evaluation = _list(spec.eval_input, storage).inputs if spec.eval_input else None
    labelled = _list(spec.label_input, storage).inputs if spec.label_input else None
    source = _prompt_source(spec)
    _check_columns(spec, source, training, evaluation, labelled)
    plan = FinetunePlan(
        spec=spec,
        source=source,
        output=output,
        storage=storage,
        model=model,
        config=model.config,
        tokenizer=tokenizer,
        seq_length=spec.seq_length or positions,
        packing=_packing(spec),
        training=training,
        evaluation=evaluation,
        labelled=labelled,
        sources=_sources(spec, listed),
    )
    plan.label_tokens()
    return (
        plan
        if spec.from_checkpoint is None
        else replace(plan, start=find_start(spec, plan.open_output(), plan.identity(), storage))
    )


def _packing(spec: FinetuneSpec) -> str:
    """Resolve `--packing auto`: a label is trained on as `classify` asks for it, with the prompt alone."""
    if spec.packing != "auto":
        return spec.packing
    if spec.messages_column is not None:
        return "whole"
    if not spec.has_pairs:
        return "stream"
    return "single" if spec.labels else "whole"


def absolute_model(model: str) -> str:
    """Make the path of a model absolute: workers start in another directory."""
    return model if model == "embedded" else os.path.abspath(os.path.expanduser(model))


def absolute_settings(settings: ModelSettings) -> ModelSettings:
    """Make the paths among the model settings absolute."""
    named = {name: getattr(settings, name) for name in _SETTINGS_PATHS}
    paths: dict[str, Any] = {name: absolute_model(path) for name, path in named.items() if path is not None}
    return replace(settings, **paths)


@dataclass(frozen=True, slots=True)
class _Listed:
    """The files of several inputs, the URIs of those that each input contains, and the rows of each file."""

    inputs: InputFiles
    by_input: tuple[frozenset[str], ...]
    rows: dict[str, int]


def _list(inputs: Sequence[str], storage: Storage) -> _Listed:
    found = find_inputs(storage, list(map(full_uri, inputs)))
    footers = read_footers(storage, found.files, text_columns=())
    unified = unify(footers, range_reader(storage))
    rows = {file.uri: footer.rows for file, footer in zip(found.files, footers, strict=True)}
    files = InputFiles(found.files, unified.schema, sum(rows.values()), (*found.notes, *unified.lines))
    return _Listed(files, found.by_input, rows)


def _sources(spec: FinetuneSpec, listed: _Listed) -> tuple[WeightedInput, ...]:
    """The inputs with their weights; none without --input-weights. Raises RequestError for a file in two of them."""
    found: list[WeightedInput] = []
    seen: dict[str, str] = {}
    for name, weight, own in zip(spec.input, spec.input_weights, listed.by_input, strict=False):
        for uri in own:
            if seen.setdefault(uri, name) != name or name in {each.name for each in found}:
                raise RequestError(
                    f"--input-weights: {show_uri(uri)} is in two inputs; each file may have one weight only"
                )
        files = tuple(file for file in listed.inputs.files if file.uri in own)
        if not files:
            raise RequestError(f"--input-weights: the files of {show_uri(full_uri(name))} are those of another input")
        rows = sum(listed.rows[file.uri] for file in files)
        found.append(WeightedInput(name, weight, InputFiles(files, listed.inputs.columns, rows, ())))
    return tuple(found)


def _prompt_source(spec: FinetuneSpec) -> PromptSource:
    """The prompt's compiled template and the columns of its variables. Raises RequestError."""
    default = CLASSIFY_TEMPLATE if spec.prompt_column is None else GENERATE_TEMPLATE
    return build_source(spec.template, text_column=spec.prompt_column or spec.text_column, default=default)


def _label_column(spec: FinetuneSpec) -> str:
    return spec.label_column or spec.completion_column or LABEL


def _check_columns(
    spec: FinetuneSpec,
    source: PromptSource,
    training: InputFiles,
    evaluation: InputFiles | None,
    labelled: InputFiles | None,
) -> None:
    for files in (training, evaluation):
        if files is None:
            continue
        if spec.messages_column is not None:
            check_messages_column(files.columns, spec.messages_column)
        elif spec.has_pairs:
            _check_prompt(spec, source, files)
            check_text_column(files.columns, str(spec.completion_column), flag="--completion-column")
        else:
            check_text_column(files.columns, spec.text_column, flag="--text-column")
    if labelled is not None:
        _check_prompt(spec, source, labelled)
        check_text_column(labelled.columns, _label_column(spec), flag="--label-column")


def _check_prompt(spec: FinetuneSpec, source: PromptSource, files: InputFiles) -> None:
    if spec.template is not None:
        check_variables(source.template.variables, files.columns.names)
        for name in source.template.variables:
            check_text_column(files.columns, name, flag="--template")
    elif spec.prompt_column is not None:
        check_text_column(files.columns, spec.prompt_column, flag="--prompt-column")
    else:
        check_text_column(files.columns, spec.text_column, flag="--text-column")
