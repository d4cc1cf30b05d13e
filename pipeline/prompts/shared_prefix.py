"""What all prompts of a job begin with: the head of examples, and the tokens that are computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tirazh.errors import RequestError
from tirazh.model.tokenizer import Tokenizer
from tirazh.pipeline.prompts.encode import PromptConfig, PromptWriter
from tirazh.pipeline.prompts.shots import EXAMPLES

# Texts whose first characters are of every class that a tokenizer treats differently. The tokens
# that their prompts have in common at the beginning are common to all prompts of the job.
PROBE_TEXTS = ("А", "z", "7", "«", "-", " ", "\n")
# Computing a shorter prefix again for each row is cheaper than looking it up.
MIN_SHARED_TOKENS = 16


def fill(writer: PromptWriter, text: str) -> str:
    """Render a prompt that has `text` in every variable. Raises RowError."""
    template = writer.config.template
    names = [*writer.config.columns, *([EXAMPLES] if writer.config.shots is not None else [])]
    return writer.render({name: template.probe(name, text) for name in names})


def add_head(config: PromptConfig, tokenizer: Tokenizer, head: str, separator: str) -> PromptConfig:
    """Put a head and its separator before every prompt.

    The head is added as token ids if the tokenizer never merges it with the text that follows, so that
    it is not tokenised again for every row; otherwise as text.
    """
    if not head:
        return config
    as_text = replace(config, head_text=head + separator)
    (head_ids,) = PromptWriter(config, tokenizer).encode([head])
    as_ids = replace(config, head_ids=tuple(head_ids), head_text=separator)
    # A tokenizer that merges the line breaks with the following text gives different tokens for one
    # of the probes.
    is_same = probe_prompts(as_text, tokenizer) == probe_prompts(as_ids, tokenizer)
    return as_ids if is_same else as_text


def find_prefix(config: PromptConfig, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The longest common prefix of all prompts in tokens, or an empty one below `MIN_SHARED_TOKENS`.

    Raises RequestError if it leaves no space for a row.
    """
    prompts = probe_prompts(config, tokenizer)
    shared = common_prefix(prompts)
    prefix = tuple(prompts[0][:shared]) if shared >= MIN_SHARED_TOKENS else ()
    _check_capacity(config, len(prefix))
    return prefix


def probe_prompts(config: PromptConfig, tokenizer: Tokenizer) -> list[list[int]]:
    """The tokens of prompts with the texts `PROBE_TEXTS`."""
    writer = PromptWriter(replace(config, boundary=None), tokenizer)
    return writer.encode([fill(writer, text) for text in PROBE_TEXTS])


def common_prefix(values: Sequence[Sequence[int] | str]) -> int:
    """The length of the longest common prefix of texts, or of lists of tokens."""
    first, shared = values[0], 0
    while shared < min(map(len, values)) and all(each[shared] == first[shared] for each in values):
        shared += 1
    return shared


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
