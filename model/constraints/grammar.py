"""Compiled constraints, and the state of each completion that follows one.

All states of a constraint share the compiled automaton, whose states the library adds as they are needed. Their number
is bounded, and a state that meets the bound starts again with an automaton of its own: so whether a completion meets it
depends on that completion alone, and not on those before it. No torch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from tirazh.model.constraints.grammar_text import grammar_text
from tirazh.model.constraints.schema_text import GrammarError
from tirazh.model.requests import Constraint

_MAX_GRAMMARS = 1024  # compiled constraints that are kept
# A state takes one to two kilobytes. A title of 120 characters and a text of 600 need some thousand.
_MAX_STATES = 100_000
# The library counts the work of a step and refuses what is more. It counts less where another completion has already
# made the states, so the refusal would depend on the rows before; the number of states bounds the work as well.
_NO_LIMIT = 1 << 60


class Grammar:
    """A compiled constraint."""

    def __init__(self, constraint: Constraint, tokens: LLTokenizer) -> None:
        """Raises GrammarError with the library's own sentence for what cannot be compiled."""
        try:
            self._text = grammar_text(constraint)
        except GrammarError:
            raise
        except ValueError as error:  # the library's, for a schema that it cannot read
            raise GrammarError(str(error)) from None
        self._tokens = tokens
        self._prototype = self.compile()
        if self._prototype.is_error():
            raise GrammarError(_sentence(self._prototype.get_error()))

    def compile(self) -> LLMatcher:
        """Return a matcher that shares nothing with others."""
        limits = LLParserLimits(step_lexer_fuel=_NO_LIMIT, max_lexer_states=_MAX_STATES, verbose_errors=False)
        return LLMatcher(self._tokens, self._text, log_level=0, limits=limits)

    def start(self) -> GrammarState:
        """Return the state of an empty completion."""
        return GrammarState(self, self._prototype.deep_copy())

    def renew(self) -> None:
        """Let the completions that start from now on use a new automaton."""
        self._prototype = self.compile()


class GrammarState:
    """How far one completion has come. `matcher` computes its next mask."""

    def __init__(self, grammar: Grammar, matcher: LLMatcher) -> None:
        self._grammar, self.matcher = grammar, matcher
        self._taken: list[int] = []

    @property
    def is_complete(self) -> bool:
        """Whether the completion is right and nothing may follow."""
        return self.matcher.is_stopped() and not self.matcher.is_error()

    @property
    def is_accepting(self) -> bool:
        """Whether the completion may end here."""
        return self.matcher.is_accepting()

    def take(self, tokens: Sequence[int]) -> None:
        """Append tokens that the masks allow."""
        self._taken += tokens
        if not self.matcher.consume_tokens(list(tokens)):
            self.recover()

    def forced(self) -> list[int]:
        """Return the tokens that must follow, as the tokenizer itself would write their text."""
        found: list[int] = self.matcher.compute_ff_tokens()
        return found

    def recover(self) -> bool:
        """Start again with an automaton of its own. Returns whether that has removed the matcher's error."""
        self._grammar.renew()
        self.matcher = self._grammar.compile()
        return bool(self.matcher.consume_tokens(self._taken))

    @property
    def error(self) -> str | None:
        """Why no mask can be computed; None where it can."""
        return _sentence(self.matcher.get_error()) if self.matcher.is_error() else None


class Grammars:
    """The constraints of a replica's requests, each compiled once. Not thread-safe."""

    def __init__(self, tokens: Callable[[], LLTokenizer]) -> None:
        """`tokens` makes the tokenizer; it is called for the first constraint only."""
        self._make_tokens = tokens
        self._tokens: LLTokenizer | None = None
        self._found: OrderedDict[Constraint, Grammar | GrammarError] = OrderedDict()

    @property
    def tokens(self) -> LLTokenizer:
        """The tokenizer. Raises RequestError where it cannot be used."""
        if self._tokens is None:
            self._tokens = self._make_tokens()
        return self._tokens

    def compiled(self, constraint: Constraint) -> Grammar:
        """Return a compiled constraint. Raises GrammarError."""
        found = self._found.get(constraint)
        if found is None:
            try:
                found = Grammar(constraint, self.tokens)
            except GrammarError as error:
                found = error
            self._found[constraint] = found
            if len(self._found) > _MAX_GRAMMARS:
                self._found.popitem(last=False)
        self._found.move_to_end(constraint)
        if isinstance(found, GrammarError):
            raise found
        return found


def _sentence(message: str) -> str:
    """The library's message on one line, without its drawings of the place."""
    if message.startswith("NoExtension"):
        return "no text can follow it"
    lines = [line.strip() for line in message.split("\n   1 |")[0].split("<backtrace>")[0].splitlines()]
    kept = [line for line in lines if line.strip("^~ ") and line != "<non-verbose/>"]
    return " ".join(kept).rpartition("(in regex): ")[2][:300]
