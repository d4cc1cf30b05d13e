"""Compiles a job's constraint when the job is planned, so that what cannot work is refused before anything starts."""

from __future__ import annotations

import random
import time

import numpy as np

from tirazh.errors import RequestError
from tirazh.model.constraints.grammar import Grammar
from tirazh.model.constraints.schema_text import GrammarError
from tirazh.model.constraints.tokens import grammar_tokenizer
from tirazh.model.tokenizer import Tokenizer
from tirazh.pipeline.constraints.settings import ConstraintSettings, job_constraint, used_setting
from tirazh.pipeline.settings import flag_name

# A walk of random tokens through the grammar measures its masks. Ordinary schemas take 0.01 to 0.3 ms a mask.
_STEPS = 48
_MOST_SECONDS = 0.03  # CPU time of a mask, on average
_MOST_COMPILE_SECONDS = 5.0


def check_constraint(spec: ConstraintSettings, tokenizer: Tokenizer) -> None:
    """Compile the job's constraint for the model's tokenizer, and follow it for some tokens.

    Raises RequestError for a tokenizer that cannot be used, for what the library cannot do, for a constraint that no
    text follows, and for one that takes too long.
    """
    name = used_setting(spec)
    if name is None:
        return
    tokens = grammar_tokenizer(tokenizer)
    constraint = job_constraint(spec)
    if constraint is None:
        return  # each row's own schema is compiled by the replica, and a bad one is the row's error
    started = time.thread_time()
    try:
        grammar = Grammar(constraint, tokens)
    except GrammarError as error:
        raise RequestError(f"{flag_name(name)}: {error}") from None
    if time.thread_time() - started > _MOST_COMPILE_SECONDS:
        raise RequestError(f"{flag_name(name)} takes more than {_MOST_COMPILE_SECONDS:g} s to compile; simplify it")
    _follow(grammar, flag_name(name), set(tokenizer.end_token_ids))


def _follow(grammar: Grammar, flag: str, ends: set[int]) -> None:
    state, rng, started = grammar.start(), random.Random(0), time.thread_time()
    for step in range(1, _STEPS + 1):
        mask = np.frombuffer(state.matcher.compute_bitmask(), np.uint8)
        if state.error is not None or not mask.any():
            what = "no text follows it" if step == 1 else f"it cannot be followed for {step} tokens"
            raise RequestError(f"{flag}: {what} ({state.error or 'no token may follow'})")
        seconds = (time.thread_time() - started) / _STEPS
        if seconds > _MOST_SECONDS:
            raise RequestError(f"{flag} takes more than {1e3 * _MOST_SECONDS:g} ms for every token; simplify it")
        allowed = [each for each in np.flatnonzero(np.unpackbits(mask, bitorder="little")).tolist() if each not in ends]
        if not allowed:
            return
        state.take([rng.choice(allowed)])
        if state.is_complete:
            return
