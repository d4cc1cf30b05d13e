"""Constrained decoding in the engine: completions follow their constraint, as a slow reference finds them token by
token, whatever runs beside them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model.constrained_engine import (
    NEVER,
    complete,
    constrained_engine,
    embedded_model,
    embedded_tokenizer,
    grammars,
    of_choices,
    of_regex,
    of_schema,
    request,
    text_of,
)
from tests.model.constraints.test_grammar import schemas
from tests.model.tiny import full_logits, use_threads
from tirazh.model.engine.sampling import RowState, sample
from tirazh.model.requests import Completion, Constraint, GenerateRequest


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    with use_threads(1):
        yield


CATEGORIES = ["спорт", "наука", "экономика", "политика", "культура", "техника"]
NEWS = {
    "properties": {
        "title": {"type": "string", "minLength": 5, "maxLength": 30},
        "body": {"type": "string", "minLength": 20, "maxLength": 80},
        "category": {"enum": CATEGORIES},
    }
}
CONSTRAINTS = (
    of_schema(NEWS),
    of_regex(r" [а-я]{2,9}, \d{1,2} (января|мая) \d{4} года\."),
    of_choices(" да", " да, но позже", " нет"),
    of_schema({"properties": {"n": {"type": "integer", "minimum": 1, "maximum": 40}, "ok": {"type": "boolean"}}}),
    None,
)


def mixed(count: int, **sampling: Any) -> list[GenerateRequest]:
    return [request(f"Новость {i}: ", CONSTRAINTS[i % len(CONSTRAINTS)], seed=i, **sampling) for i in range(count)]


def tokens_of(results: Sequence[Completion]) -> list[tuple[tuple[int, ...], str, str | None]]:
    return [(tuple(result.token_ids), result.finish_reason, result.error) for result in results]


def reference(asked: GenerateRequest, num_tokens: int) -> list[int]:
    """Complete a request by a whole forward pass for every token, whose logits are masked by trying every token of the
    vocabulary one by one."""
    assert asked.constraint is not None
    state = grammars().compiled(asked.constraint).start()
    ends, taken = embedded_tokenizer().end_token_ids, list[int]()
    for index in range(num_tokens):
        allowed = state.forced()[:1] or [
            token for token in range(embedded_tokenizer().size) if state.matcher.validate_tokens([token]) == 1
        ]
        logits_V = full_logits(embedded_model(), [*asked.prompt_token_ids, *taken])[-1]
        masked_V = torch.full_like(logits_V, -torch.inf)
        masked_V[allowed] = logits_V[allowed]
        states = [RowState(asked.sampling, asked.seed, None, index)]
        (token,) = sample(masked_V[None], states, len(logits_V)).tokens.tolist()
        if token in ends:
            break
        taken.append(token)
        state.take([token])
        if state.is_complete:
            break
    return taken


@pytest.mark.parametrize("constraint", CONSTRAINTS[:4])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_completion_is_that_of_the_slow_reference(constraint: Constraint, temperature: float) -> None:
    asked = request("Новость: ", constraint, seed=4, temperature=temperature, top_p=1.0, max_new_tokens=24)
    (result,) = complete(constrained_engine(), [asked])
    assert list(result.token_ids) == reference(asked, 24)


@settings(max_examples=6, deadline=None)
@given(schema=schemas(), seed=st.integers(0, 2**60))
def test_any_schema_gives_json_that_validates_or_an_unfinished_row(schema: dict[str, Any], seed: int) -> None:
    for result in complete(
        constrained_engine(), [request("JSON: ", of_schema(schema), seed=seed + i) for i in range(4)]
    ):
        if result.error is None:
            jsonschema.validate(json.loads(text_of(result)), schema)
        else:
            assert result.error.startswith("unfinished: ")


@pytest.fixture(scope="module")
def expected() -> list[tuple[tuple[int, ...], str, str | None]]:
    return tokens_of(complete(constrained_engine(slots=8), mixed(10)))


@pytest.mark.parametrize("slots", [pytest.param(1, marks=pytest.mark.slow), 64])
def test_any_number_of_slots_gives_the_same_tokens(slots: int, expected: list[Any]) -> None:
    assert tokens_of(complete(constrained_engine(slots=slots), mixed(10))) == expected


def test_the_reverse_order_gives_the_same_tokens(expected: list[Any]) -> None:
    assert tokens_of(complete(constrained_engine(slots=3), mixed(10)[::-1]))[::-1] == expected


def test_forced_tokens_that_are_decoded_one_by_one_give_the_same_completions(expected: list[Any]) -> None:
    assert tokens_of(complete(constrained_engine(slots=8, min_forced_run=NEVER), mixed(10))) == expected


def test_forced_tokens_are_computed_in_fewer_steps() -> None:
    chunks, single = constrained_engine(slots=8), constrained_engine(slots=8, min_forced_run=NEVER)
    asked = [request("Новость: ", of_schema(NEWS), seed=seed, max_new_tokens=160) for seed in range(4)]
    results = complete(chunks, asked)
    complete(single, asked)
    assert chunks.counters.steps < 0.9 * single.counters.steps
    assert chunks.counters.completion_tokens == single.counters.completion_tokens
    assert chunks.counters.completion_tokens == sum(len(result.token_ids) for result in results)


def test_tokens_that_stay_on_the_device_for_a_step_give_the_same_completions(expected: list[Any]) -> None:
    assert tokens_of(complete(constrained_engine(slots=8, overlaps_steps=True), mixed(10))) == expected


def test_a_shared_prefix_changes_no_completion() -> None:
    """A long one, so that forced runs stand in later windows than it."""
    prefix = "Ниже стоят новости, и каждая из них записана как JSON с заголовком и текстом. " * 4
    asked = [request(prefix + f"Новость {i}: ", CONSTRAINTS[i % 2], seed=i, temperature=0) for i in range(4)]
    alone = complete(constrained_engine(), asked)
    assert tokens_of(complete(constrained_engine(prefix=prefix), asked)) == tokens_of(alone)


def test_every_completion_follows_its_constraint() -> None:
    results = complete(constrained_engine(), mixed(10, max_new_tokens=160))
    for index, result in enumerate(results):
        text, kind = text_of(result), index % len(CONSTRAINTS)
        if CONSTRAINTS[kind] is not None:
            assert (result.finish_reason, result.error) == ("stop", None)
        if kind == 0:
            jsonschema.validate(json.loads(text), NEWS)
        if kind == 1:
            assert re.fullmatch(r" [а-я]{2,9}, \d{1,2} (января|мая) \d{4} года\.", text)
        if kind == 2:
            assert text in (" да", " да, но позже", " нет")


def test_a_completion_that_is_cut_before_its_end_has_an_error_and_keeps_its_text() -> None:
    (result,) = complete(constrained_engine(), [request("Новость: ", of_schema(NEWS), max_new_tokens=20)])
    assert result.finish_reason == "length"
    assert text_of(result).startswith('{"title": ')
    assert result.error == "unfinished: the completion has 20 tokens, the most that it may have, and is not complete"


def test_a_forced_run_is_cut_at_the_greatest_length() -> None:
    (result,) = complete(constrained_engine(), [request("Новость: ", of_schema(NEWS), max_new_tokens=3)])
    assert len(result.token_ids) == 3
    assert result.error is not None


def test_a_completion_that_is_cut_where_it_may_end_has_no_error() -> None:
    (result,) = complete(constrained_engine(), [request("Слово: ", of_regex("[а-я ]+"), max_new_tokens=6)])
    assert (result.finish_reason, result.error) in (("length", None), ("stop", None))


def test_a_text_that_is_forced_as_a_whole_needs_no_step() -> None:
    engine = constrained_engine()
    (result,) = complete(engine, [request("Новость: ", of_choices("только так и никак иначе"))])
    assert (text_of(result), result.finish_reason) == ("только так и никак иначе", "stop")
    assert engine.counters.steps == 0


def test_a_dead_end_is_the_error_of_its_row_alone() -> None:
    """Nothing matches: a class of no letters."""
    bad, good = complete(constrained_engine(), [request("а", of_regex(r"[^\s\S]")), request("а", of_choices("да"))])
    assert bad.finish_reason == "error"
    assert bad.error == "the completion cannot be continued as the constraint asks: no text can follow it"
    assert text_of(good) == "да"


def test_a_bad_schema_is_the_error_of_its_row_alone() -> None:
    bad, good = complete(constrained_engine(), [request("а", of_schema({"not": {}})), request("а", of_choices("да"))])
    assert bad.error == 'the schema cannot be used: Unimplemented keys: ["not"]'
    assert text_of(good) == "да"


def test_a_repetition_penalty_applies_before_the_mask() -> None:
    asked = request("Новость: ", of_schema(NEWS), repetition_penalty=1.5, max_new_tokens=160)
    (result,) = complete(constrained_engine(), [asked])
    jsonschema.validate(json.loads(text_of(result)), NEWS)


def test_cancelled_requests_leave_the_others_as_they_are(expected: list[Any]) -> None:
    engine = constrained_engine(slots=4)
    ids = engine.add(mixed(10))
    results: dict[int, Any] = {}
    for step in range(10_000):
        if step == 12:
            engine.cancel(ids[1::3])
        results.update(engine.step())
        if not engine.has_work:
            break
    kept = [index for index, id in enumerate(ids) if id in results]
    assert tokens_of([results[ids[index]] for index in kept]) == [expected[index] for index in kept]


def test_escapes_occur_inside_bounded_strings() -> None:
    """A model that may write only quotation marks writes them."""
    schema = {"properties": {"s": {"type": "string", "pattern": '^["\\\\]{3,9}$'}}}
    (result,) = complete(constrained_engine(), [request("Текст: ", of_schema(schema))])
    assert set(json.loads(text_of(result))["s"]) <= {'"', "\\"}


def test_the_masks_of_a_step_say_what_the_matchers_say() -> None:
    state = grammars().compiled(of_regex("(ab|cd)+")).start()
    by_trying = [token for token in range(grammars().tokens.vocab_size) if state.matcher.validate_tokens([token]) == 1]
    mask = np.frombuffer(state.matcher.compute_bitmask(), np.uint8)
    assert np.flatnonzero(np.unpackbits(mask, bitorder="little")).tolist() == by_trying
