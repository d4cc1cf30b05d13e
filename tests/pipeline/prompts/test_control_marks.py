"""Control tokens that a template prints are tokens; the same names in data are text."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tirazh.model.tokenizer import Tokenizer
from tirazh.pipeline import schema
from tirazh.pipeline.prompts.control_marks import choose_marks
from tirazh.pipeline.prompts.encode import PromptStep
from tirazh.pipeline.prompts.prepare import mark_template, prepare_prompts
from tirazh.pipeline.prompts.source import prompt_source
from tirazh.pipeline.prompts.template import PromptTemplate
from tirazh.pipeline.spec import GenerateSpec

END = "<|endoftext|>"
Encode = Callable[..., list[int]]


@pytest.fixture
def encode(model_dir: Path, tokenizer: Tokenizer) -> Encode:
    """Return the prompt tokens of one row with a template."""

    def encode(template: str, prompt: str) -> list[int]:
        spec = GenerateSpec(input=("in",), output="out", template=template)
        prepared = prepare_prompts(
            spec, tokenizer, prompt_source(spec), tokenizer_dir=str(model_dir), seq_length=256, overrides=()
        )
        table = pa.table({"prompt": [prompt], schema.PART: [0], schema.REPETITION: [0]})
        ids: list[int] = PromptStep(prepared.config)(table).column(schema.PROMPT_IDS)[0].as_py()
        return ids

    return encode


@pytest.mark.parametrize(
    "template",
    [
        "<|endoftext|>user\n{{ prompt }}<|endoftext|>\n",
        "{{ '<|endoftext|>' }}user\n{{ prompt }}{{ '<|endoftext|>' ~ '\n' }}",
        "{% if prompt %}<|endoftext|>{% endif %}user\n{{ prompt }}{{ '<|endoftext|>' if prompt else '' }}\n",
    ],
)
@pytest.mark.parametrize("prompt", ["спорт", END, f"a{END}b", "\U0010e000", f"\U0010e000{END}\U0010e001"])
def test_a_name_is_a_token_in_the_template_and_text_in_data(
    encode: Encode, tokenizer: Tokenizer, template: str, prompt: str
) -> None:
    end = tokenizer.control_tokens[END]
    text = tokenizer.encode
    assert encode(template, prompt) == [end, *text("user\n"), *text(prompt), end, *text("\n")]


def test_a_filter_on_data_compares_with_the_name_itself(encode: Encode, tokenizer: Tokenizer) -> None:
    template = "<|endoftext|>{{ prompt | replace('<|endoftext|>', '!') | upper }}"
    assert encode(template, f"a{END}b") == [tokenizer.control_tokens[END], *tokenizer.encode("A!B")]


def test_a_name_that_a_filter_changes_is_text(encode: Encode, tokenizer: Tokenizer) -> None:
    assert encode("{{ '<|endoftext|>' | upper }} {{ prompt }}", "x") == tokenizer.encode("<|ENDOFTEXT|> x")


def test_a_template_without_names_is_left_as_it_is(tokenizer: Tokenizer) -> None:
    template = PromptTemplate("{{ text }}\nТема:")
    assert mark_template(template, tokenizer) is template


def test_a_marked_template_is_pickled_with_its_marks(tokenizer: Tokenizer) -> None:
    template = mark_template(PromptTemplate("<pad>{{ text }}"), tokenizer)
    copy = pickle.loads(pickle.dumps(template))
    assert copy.render({"text": "x"}) == template.render({"text": "x"}) == template.marks["<pad>"] + "x"


@given(st.text())
def test_marks_are_never_characters_that_are_taken(taken: str) -> None:
    marks = choose_marks("<s> </s>", ("<s>", "</s>", "<pad>"), taken)
    assert marks is not None
    assert set(marks) == {"<s>", "</s>"}
    assert set(marks.values()).isdisjoint(taken)
