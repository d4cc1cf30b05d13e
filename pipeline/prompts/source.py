"""Where a job's prompts come from: the compiled template, and the input column behind each of its variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tirazh.pipeline.prompts.shots import EXAMPLES
from tirazh.pipeline.prompts.template import PromptTemplate
from tirazh.pipeline.spec import ClassifySpec, EmbedSpec, GenerateSpec, JobSpec, ScoreSpec

CLASSIFY_TEMPLATE = "{{ text }}\nТема:"
GENERATE_TEMPLATE = "{{ text }}"
EMBED_TEMPLATE = GENERATE_TEMPLATE
DEFAULT_VARIABLE = "text"
LABELS = "labels"  # what a template of classify calls the labels of the job


@dataclass(frozen=True, slots=True)
class PromptSource:
    """`columns` maps the template's variables to input columns; `text_variable` may be truncated.

    `content_columns` are columns outside of the prompt on which a row's random numbers depend too.
    `is_default` tells whether the template is the default one, spelled out or not.
    """

    template: PromptTemplate
    columns: Mapping[str, str]
    text_variable: str
    is_default: bool = False
    content_columns: tuple[str, ...] = ()

    @property
    def text_column(self) -> str:
        """The column whose text may be truncated; empty for a template without variables, and for one of lists only."""
        return self.columns.get(self.text_variable, "")


def prompt_source(spec: JobSpec) -> PromptSource:
    """Compile the job's own template or the default one of its kind. Raises RequestError."""
    if isinstance(spec, GenerateSpec):
        drawn = (EXAMPLES,) if spec.examples is not None else ()
        source = build_source(spec.template, text_column=spec.prompt_column, default=GENERATE_TEMPLATE, drawn=drawn)
        # Cells that differ only in names that the template does not use have the same prompt, and still draw other
        # random numbers.
        unused = set(spec.vary or ()) - set(source.columns.values())
        return replace(source, content_columns=tuple(sorted(unused)))
    if isinstance(spec, ScoreSpec):
        return _score_source(spec)
    if isinstance(spec, EmbedSpec):
        return build_source(spec.template, text_column=spec.text_column, default=EMBED_TEMPLATE)
    assert isinstance(spec, ClassifySpec)
    # With several questions each of them has a suffix of its own, and labels of its own.
    default, drawn = (GENERATE_TEMPLATE, ()) if spec.questions is not None else (CLASSIFY_TEMPLATE, (LABELS,))
    return build_source(spec.template, text_column=spec.text_column, default=default, drawn=drawn)


def _score_source(spec: ScoreSpec) -> PromptSource:
    """The template gives the context alone; the text, a variable that no template can use, follows it."""
    context = PromptTemplate(spec.template or "", keeps_newline=True)
    columns = {name: name for name in context.variables} | {spec.text_column: spec.text_column}
    return PromptSource(context, columns, spec.text_column, is_default=not spec.template)


def build_source(template: str | None, *, text_column: str, default: str, drawn: Sequence[str] = ()) -> PromptSource:
    """Compile `template`, whose variables are column names, or `default`, whose variable is the text.

    The variables `drawn` are no columns.

    Raises RequestError for a template that is not allowed.
    """
    # A column with another name than an identifier cannot be a variable of a template.
    spelled_out = default.replace(GENERATE_TEMPLATE, f"{{{{ {text_column} }}}}") if text_column.isidentifier() else None
    if template is None or template == spelled_out:
        return PromptSource(PromptTemplate(default), {DEFAULT_VARIABLE: text_column}, DEFAULT_VARIABLE, is_default=True)
    compiled = PromptTemplate(template)
    variables = [name for name in compiled.variables if name not in drawn]
    # Without the text column the first variable that is a text may be truncated. `check_columns` refuses a
    # template without variables.
    texts = [name for name in variables if name in compiled.printed]
    text_variable = text_column if text_column in texts else next(iter(texts), "")
    return PromptSource(compiled, {name: name for name in variables}, text_variable)
