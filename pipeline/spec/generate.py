"""The spec of generate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tirazh.errors import RequestError
from tirazh.model.requests import SamplingParams
from tirazh.pipeline.constraints.settings import check_constraint_settings
from tirazh.pipeline.crossing.declaration import check_rows
from tirazh.pipeline.quality.dedup.config import check_dedup
from tirazh.pipeline.quality.pii import parse_kinds
from tirazh.pipeline.quality.rules import parse_filters
from tirazh.pipeline.sampling_checks import check_bad_words, check_logit_bias
from tirazh.pipeline.settings import check_at_least, check_int64, flag_name, setting
from tirazh.pipeline.shared_settings import shared_setting
from tirazh.pipeline.spec.acceptance import check_accepted
from tirazh.pipeline.spec.job import JobSpec
from tirazh.pipeline.spec.row_settings import check_examples, check_keep

SamplesAs = Literal["rows", "lists"]
Dropped = Literal["separate", "inline"]


@dataclass(frozen=True, kw_only=True)
class GenerateSpec(JobSpec):
    """Complete the prompt of every row."""

    input: tuple[str, ...] = shared_setting("input", more=" (not needed with --vary)", default=())
    prompt_column: str = setting("prompt", "column with the prompt (not used together with --template)", identity=True)
    max_new_tokens: int = setting(64, "maximum number of tokens to generate per completion", identity=True)
    temperature: float = setting(1.0, "sampling temperature; 0 means greedy decoding", identity=True)
    top_k: int = setting(0, "top-k sampling: sample from the K most likely tokens (0: disabled)", identity=True)
    top_p: float = setting(
        1.0,
        "nucleus sampling: sample from the smallest set of most likely tokens whose cumulative probability reaches P "
        "(0 or 1: disabled)",
        identity=True,
    )
    repetition_penalty: float = setting(
        1.0,
        "penalty for tokens that occur in the prompt or in the text generated so far (CTRL; 1: disabled, above 1: "
        "fewer repetitions)",
        identity=True,
    )
    no_repeat_ngram_size: int = setting(0, "never generate the same N-gram twice (0: disabled)", identity=True)
    stop: tuple[str, ...] = setting(
        (), "stop strings: generation ends at the first one, which is not part of the completion", identity=True
    )
    min_p: float = setting(
        0.0,
        "min-p sampling: sample only from tokens at least P times as likely as the most likely one (0: disabled)",
        identity=True,
    )
    min_new_tokens: int = setting(0, "minimum number of tokens to generate before a completion may end", identity=True)
    frequency_penalty: float = setting(
        0.0,
        "subtract this from a token's logit for each time that it occurs in the completion so far (0: disabled)",
        identity=True,
    )
    presence_penalty: float = setting(
        0.0,
        "subtract this from a token's logit if it occurs in the completion so far (0: disabled)",
        identity=True,
    )
    logit_bias: Any = setting(  # noqa: RUF009 - a field() call
        None,
        "add a number to the logits of a text's tokens, e.g. '{\" и\": -2}'",
        identity=True,
        structure=True,
    )
    bad_words: tuple[str, ...] = setting((), "texts that are never generated", identity=True)
    samples: int = setting(1, "number of completions to sample per prompt", identity=True)
    samples_as: SamplesAs = setting(  # noqa: RUF009 - a field() call
        "rows",
        "with --samples above 1: one output row per sample, with a column `sample`, or one row with lists",
        identity=True,
        choices=("rows", "lists"),
    )
    keep: tuple[str, ...] = setting(
        (), "also write these columns: prompt (the rendered prompt) and seed (that of the row)", identity=True
    )
    seed: int = shared_setting("seed", more="; the same seed gives the same completions")

    vary: Any = setting(  # noqa: RUF009 - a field() call
        None,
        "values to cross: a mapping of template variables to lists of values, to {value: weight}, or to a .txt, .csv, "
        ".jsonl or .parquet file (FILE#COLUMN)",
        identity=True,
        group="prompts",
        structure=True,
    )
    rows: int | None = setting(None, "number of rows to draw from the values of --vary", identity=True, group="prompts")
    per_cell: int | None = setting(
        None, "number of rows for every combination of the values of --vary", identity=True, group="prompts"
    )
    examples: str | None = setting(
        None,
        "file with few-shot examples (Parquet, JSONL or CSV); each row draws its own --shots of them, which the "
        "template reads as `examples`",
        identity=True,
        group="prompts",
        path=True,
    )
    shots: int = setting(0, "number of few-shot examples per prompt", identity=True, group="prompts")

    schema: Any = setting(  # noqa: RUF009 - a field() call
        None,
        "JSON Schema that every completion follows (constrained decoding); its properties become columns",
        identity=True,
        group="constraints",
        structure=True,
    )
    schema_column: str | None = setting(
        None, "column with a JSON Schema for each row", identity=True, group="constraints"
    )
    regex: str | None = setting(
        None,
        "regular expression that every completion matches (constrained decoding)",
        identity=True,
        group="constraints",
    )
    choices: tuple[str, ...] = setting(
        (), "texts of which every completion is one (constrained decoding)", identity=True, group="constraints"
    )

    filters: Any = setting(  # noqa: RUF009 - a field() call
        None,
        "quality filters: a list of rules and presets (short-ru, short-en); rows that fail get their reasons in the "
        "column `drop_reasons`",
        identity=True,
        group="quality",
        structure=True,
    )
    pii: tuple[str, ...] = setting(
        (),
        "mask personal data in completions: email, phone, card, snils, inn, passport, ip",
        identity=True,
        group="quality",
    )
    dedup: Any = setting(  # noqa: RUF009 - a field() call
        None,
        "remove duplicates: exact, near, or a mapping such as '{near: 0.8, columns: [title]}'",
        identity=True,
        group="quality",
        structure=True,
    )
    against: tuple[str, ...] = setting(
        (),
        "earlier outputs, whose duplicates are dropped, or evaluation sets, whose 13-grams must not occur "
        "(contamination)",
        identity=True,
        group="quality",
        path=True,
    )
    accepted: int | None = setting(
        None,
        "generate until this many rows of every combination of --vary pass the filters",
        identity=True,
        group="quality",
    )
    max_attempts: int = setting(
        10, "with --accepted: at most this many attempts for each accepted row", identity=True, group="quality"
    )
    dropped: Dropped = setting(  # noqa: RUF009 - a field() call
        "separate",
        "where rows that fail go: to the directory _dropped in the output, or inline among the other rows",
        identity=True,
        group="quality",
        choices=("separate", "inline"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("samples", self.samples, 1, 4_096)
        if any(not text for text in self.stop):
            raise RequestError("--stop must not be an empty string")
        check_int64("seed", self.seed)
        parse_filters(self.filters)
        parse_kinds(self.pii)
        check_dedup(self.dedup)
        check_accepted(
            self.accepted,
            self.max_attempts,
            vary=self.vary,
            others={
                "--samples": self.samples > 1,
                "--per-cell": self.per_cell is not None,
                "--limit": self.limit is not None,
                "--dropped inline": self.dropped == "inline",
            },
        )
        check_rows(
            self.vary,
            rows=self.rows,
            per_cell=self.per_cell,
            has_input=bool(self.input),
            accepted=self.accepted,
        )
        check_logit_bias(self.logit_bias)
        check_bad_words(self.bad_words)
        check_keep(self.keep)
        check_constraint_settings(self)
        check_examples(self.examples, self.shots, has_template=self.template is not None)
        # SamplingParams names its fields, which are also column names; here the user set flags.
        try:
            self.sampling  # noqa: B018 - the constructor validates the values
        except RequestError as error:
            name, _, rule = str(error).partition(" ")
            raise RequestError(f"{flag_name(name)} {rule}") from None

    @property
    def kind(self) -> Literal["generate"]:
        return "generate"

    @property
    def needs_input(self) -> bool:
        """Whether the rows come from files; with `vary` they are made from its values."""
        return self.vary is None

    @property
    def sampling(self) -> SamplingParams:
        """The job's sampling parameters, without those that need a tokenizer (`prompts/sampled_tokens.py`). A row
        may override single values (`schema.OVERRIDES`)."""
        return SamplingParams(
            max_new_tokens=self.max_new_tokens,
            min_new_tokens=self.min_new_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            no_repeat_ngram_size=self.no_repeat_ngram_size,
            stop=self.stop,
        )
