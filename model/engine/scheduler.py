"""The scheduler: continuous batching over a fixed number of slots, with chunked prefill.

It decides which requests hold slots and which tokens run in the next step. A free slot is refilled
at once. A step is either a prefill step, with chunks of several prompts, or a decode step, with one
token of each sequence; each kind has one fixed shape, so a row's arithmetic, and with it every
token, does not depend on the rows beside it. Pure Python and NumPy, no torch: the engine
(`batch_engine.py`) executes the steps and reports their results.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from tirazh.model.engine.admission import Admission
from tirazh.model.engine.config import EngineConfig
from tirazh.model.engine.jobs import JobQueue, JobQueues
from tirazh.model.engine.logit_edits import LogitEdits
from tirazh.model.engine.prefill_packing import build_prefill_step
from tirazh.model.engine.prefix_caching.slots import PrefixSlots
from tirazh.model.engine.prefix_caching.tree import (
    CachedPrefix,
    PrefixNode,
    PrefixRequest,
    deepest_cached,
    missing_prefix,
)
from tirazh.model.engine.sequences import ActiveSequence, StepBuilder, build_decode_step
from tirazh.model.engine.stop_strings import ending_ids
from tirazh.model.engine.validation import find_problem, num_shared_tokens
from tirazh.model.requests import EngineJob, GenerateRequest, Request, ScoreRequest
from tirazh.model.step import FreshSlot, NewPrefix, Step

# Prompts wait while at least this many sequences decode per waiting prompt. A step that is padded
# to its fixed shape takes as long with few rows as with all of them, so a prefill step for a few
# tokens would only delay the sequences that decode. Simulated as step counts of this scheduler
# times the step times in docs/engine.md (282 ms prefill, 70 ms decode), with 256 to 512 requests
# and 32 to 128 slots: for prompts of more than 100 tokens all values from 1 to 10 lie within 1 %;
# for prompts of 10 to 60 tokens, 1 takes up to 4 %, 2 up to 16 % and no waiting at all up to 11 %
# more time than 3.
MIN_DECODING_PER_PROMPT = 3
# But not for ever: rows of decode steps that stay empty although prompts wait for them are counted, and a prefill step
# runs when they are as many as those of this many whole decode steps. So one prompt waits at most
# MAX_EMPTY_STEPS * decode_rows steps that have an empty row, and n prompts wait the n-th part of that.
MAX_EMPTY_STEPS = 1


@dataclass(frozen=True, slots=True)
class LogitsReader:
    """A sequence whose next result comes from `rows` of the logits, or of the hidden states, of a step: of a
    sequence whose labels are scored, those of piece `piece` of their trie."""

    slot: int
    sequence: ActiveSequence
    rows: slice
    piece: int = 0

    @property
    def owner(self) -> tuple[int, ActiveSequence]:
        """The slot and the sequence in it."""
        return self.slot, self.sequence

    @property
    def targets(self) -> Sequence[int]:
        """The tokens that the rows predict, of a text that is scored. Valid until the next step is scheduled."""
        return self.sequence.targets(self.rows.stop - self.rows.start)

    @property
    def request(self) -> Request | PrefixRequest:
        """The request of the sequence, whose kind tells what the logits are read for."""
        return self.sequence.request


@dataclass(frozen=True, slots=True)
class ScheduledStep:
    """A step to execute, and the sequences that read its logits and its hidden states, in their order."""

    step: Step
    readers: tuple[LogitsReader, ...]
    hidden_readers: tuple[LogitsReader, ...] = ()


@dataclass(frozen=True, slots=True)
class StartedCompletion:
    """A sequence that has got a slot and whose prompt is computed: `prefix_id` is the id of the cached prefix that is
    its whole prompt, behind which its first token is sampled."""

    slot: int
    sequence: ActiveSequence
    prefix_id: int


class Scheduler:
    """Waiting queue, slots and scheduling policy of one engine. Not thread-safe.

    Call `admit`, then `schedule`, before each step; report what became of the sequences with
    `expect_token`, `release` and `mark_dirty`.
    """

    def __init__(
        self, config: EngineConfig, *jobs: EngineJob, window_size: int, admission: Admission | None = None
    ) -> None:
        """The runner holds the shared prefix of the first of `jobs`, at least one; `window_size` is the
        runner's. `admission` limits how many sequences run where slots allocate memory as they grow.
        Raises RequestError as `add_job`."""
        self.config = config
        self.slots: list[ActiveSequence | None] = [None] * config.num_slots
        self._window_size = window_size
        self._admission = admission
        self._jobs = JobQueues(config, jobs, window_size=window_size)
        self._held_prefix = self._jobs.active.job.prefix_token_ids
        self._prefixes = PrefixSlots(config.num_slots, config.num_prefix_slots)
        self._started: list[StartedCompletion] = []
        self._fresh: dict[int, FreshSlot] = {}  # by slot, in the order in which sequences got theirs
        self._dirty_slots: set[int] = set()  # slots whose cache holds NaN of an earlier sequence
        self._num_admitted = 0
        self._num_empty_rows = 0  # of decode steps since the last prefill step, for which prompts waited

    @property
    def has_work(self) -> bool:
        """Whether a sequence waits or holds a slot."""
        return bool(self._jobs.num_waiting or any(self.slots))

    @property
    def needs_all_tokens(self) -> bool:
        """Whether the next step needs tokens that may still be on the device: a sequence reads its
        own history, or has a grammar."""
        return any(sequence is not None and sequence.waits_for_token for sequence in self.slots)

    def find_problem(self, request: Request) -> str | None:
        """Return why a request cannot be run; None when it can be added."""
        if not 0 <= request.job < len(self._jobs):
            return f"the request belongs to job {request.job}, but the last job of the engine is {len(self._jobs) - 1}"
        queue = self._jobs[request.job]
        return find_problem(request, self.config, queue.job, queue.trie)

    def add_job(self, job: EngineJob) -> int:
        """Return the index by which requests name a job; an equal job keeps the index that it has.

        Raises RequestError for a job that cannot be run (`JobQueues.add_job`).
        """
        return self._jobs.add_job(job)

    def add(self, requests: Iterable[tuple[int, Request]]) -> None:
        """Queue valid requests with their ids. Of those that arrive together, the longest
        completions start first, then the longest prompts: started last, they would run alone at the
        end."""
        arrived: dict[int, list[ActiveSequence]] = {}
        for id, request in requests:
            sequence = self._new_sequence(id, request, self._jobs[request.job])
            arrived.setdefault(request.job, []).append(sequence)
        for job, sequences in arrived.items():
            sequences.sort(key=lambda s: (-s.num_remaining, -len(s.prompt)))
            self._jobs.add(self._jobs[job], sequences)

    def cancel(self, ids: Collection[int]) -> None:
        """Drop the sequences with these ids, whether they wait or run. Call it between two steps."""
        self._jobs.cancel(ids)
        self._release_prefixes(self._prefixes.release_unused())
        for slot, sequence in enumerate(self.slots):
            if sequence is not None and sequence.id in ids:
                sequence.is_finished = True
                has_run = sequence.num_cached > sequence.num_shared
                if has_run and (sequence.num_pending or not sequence.new_tokens):
                    self.mark_dirty(slot)  # its latest logits are unread, so nothing has shown that they are finite
                self.release(slot, sequence)

    def admit(self) -> int:
        """Give free slots to waiting sequences of the active job: first to those that begin with a cached prefix, then
        in their order. A sequence waits for a prefix that is being computed. Returns the prompt tokens of those
        admitted."""
        if self._jobs.others_wait and not any(self.slots) and self._jobs.change_turn():
            self._release_prefixes(self._prefixes.release_all())
        free = [slot for slot, owner in enumerate(self.slots) if owner is None]
        free = free[: self._jobs.most_to_start(len(free))]
        if not free:
            return 0
        if self._admission is not None:
            owners = (*self.slots, *self._prefixes.sequences)
            self._admission.measure([0 if owner is None else owner.num_slot_tokens for owner in owners])
        num_tokens, waiting = 0, self._jobs.active.waiting
        # Of those looked at, fewer than there are free slots wait for a prefix.
        next_ones = list(itertools.islice(waiting.values(), 2 * len(free) + self.config.num_prefix_slots))
        for sequence in itertools.chain(self._prefixes.first_candidates(), next_ones):
            if not free:
                break
            if sequence.id not in waiting:
                continue  # it was a candidate before
            if self._waits_for_prefix(sequence):
                if self._prefixes.num_expected >= len(free) or self._prefixes.free_slot is None:
                    break
            elif self._accepts(free[0], sequence):
                self._occupy(free.pop(0), sequence)
                num_tokens += len(sequence.prompt)
            else:
                break
        return num_tokens

    def started_completions(self) -> list[StartedCompletion]:
        """Return the sequences just admitted whose prompts are cached as a whole; each is returned once. Their first
        tokens must be sampled before the next step is scheduled."""
        started, self._started = self._started, []
        return started

    @property
    def prefixes(self) -> list[ActiveSequence]:
        """The prefixes that slots hold now."""
        return [prefix for prefix in self._prefixes.sequences if prefix is not None]

    def schedule(self) -> ScheduledStep | None:
        """Return the next step, or None when nothing can run. The step's prompt tokens count as
        cached from here on."""
        builder = self._build_prefill() if self._should_prefill() else self._build_decode()
        if builder is None:
            return None
        fresh, self._fresh = tuple(self._fresh.values()), {}
        readers, hidden_readers = (
            tuple(self._reader(slot, rows) for slot, rows in requests)
            for requests in (builder.logit_requests, builder.hidden_requests)
        )
        return ScheduledStep(builder.build(fresh, self._new_prefix()), readers, hidden_readers)

    def _reader(self, slot: int, rows: slice) -> LogitsReader:
        sequence = self._owner(slot)
        reader = LogitsReader(slot, sequence, rows, sequence.num_pieces)
        if isinstance(sequence.request, ScoreRequest):
            sequence.num_pieces += 1
        return reader

    def expect_token(self, slot: int) -> None:
        """A token of the slot's sequence has been sampled. Frees the slot where that token is the
        last whatever it is: with overlap scheduling the next step need not wait for it."""
        sequence = self._owner(slot)
        sequence.num_pending += 1
        if not sequence.num_remaining:
            self.release(slot, sequence)

    def release(self, slot: int, sequence: ActiveSequence) -> None:
        """The sequence needs its slot no longer. Does nothing where the slot has passed to another
        one."""
        if self.slots[slot] is sequence:
            if self._admission is not None:
                self._admission.release(slot, sequence.num_slot_tokens)
            self.slots[slot] = None

    def mark_dirty(self, slot: int) -> None:
        """The slot's keys and values are NaN: they are zeroed before the next sequence starts
        there."""
        self._dirty_slots.add(slot)

    def _accepts(self, slot: int, sequence: ActiveSequence) -> bool:
        """Whether memory holds a sequence in a slot; if so, the memory is promised to it."""
        return self._admission is None or self._admission.admit(slot, sequence.max_slot_tokens)

    def _waits_for_prefix(self, sequence: ActiveSequence) -> bool:
        """Whether a sequence must wait, because a prefix of it is being computed or is to be. Begins to cache a prefix
        that is worth it, if a slot and memory are left."""
        cached = deepest_cached(sequence)
        if cached is not None and not cached.is_computed:
            return True
        node = missing_prefix(sequence, min_saved=self._prefixes.min_saved)
        if node is None:
            return False
        slot = self._prefixes.free_slot
        return self._prefixes.is_computing if slot is None else self._cache_prefix(node, slot, cached)

    def _cache_prefix(self, node: PrefixNode, slot: int, source: CachedPrefix | None) -> bool:
        """Begin to cache the tokens of a node, behind those of another prefix. Returns whether memory holds them."""
        num_shared = next(iter(node.waiting.values())).num_shared
        if self._admission is not None and not self._admission.admit(slot, node.length - num_shared):
            return False
        prefix = self._prefixes.hold(node, slot, source)
        prefix.admission_number = self._num_admitted = self._num_admitted + 1
        self._start(FreshSlot(slot, num_shared > 0, fork_of=None if source is None else source.slot))
        return True

    def _release_prefixes(self, released: Iterable[CachedPrefix]) -> None:
        for prefix in released:
            if self._admission is not None:
                self._admission.release(prefix.slot, prefix.sequence.num_slot_tokens)

    def _start(self, fresh: FreshSlot) -> None:
        """Begin a sequence in a slot with the next step. One that has left the slot before that step never began."""
        self._fresh.pop(fresh.slot, None)
        self._fresh[fresh.slot] = fresh

    def _new_prefix(self) -> NewPrefix | None:
        """The shared prefix of the active job, where ranks hold another one; they hold it from here on."""
        wanted = self._jobs.active.job.prefix_token_ids
        if wanted is self._held_prefix or wanted == self._held_prefix:
            return None
        self._held_prefix = wanted
        return NewPrefix(wanted, self.config.prefill_rows)

    def _new_sequence(self, id: int, request: Request, queue: JobQueue) -> ActiveSequence:
        prompt = tuple(request.prompt_token_ids)
        shared, max_new_tokens = num_shared_tokens(request, queue.job), 0
        if isinstance(request, GenerateRequest):
            max_new_tokens = min(request.sampling.max_new_tokens, self.config.max_length - len(prompt))
        return ActiveSequence(
            id, request, prompt, max_new_tokens, num_shared=shared, num_cached=shared, trie=queue.trie
        )

    def _occupy(self, slot: int, sequence: ActiveSequence) -> None:
        """Give a free slot to a waiting sequence, which starts behind the longest cached prefix of it."""
        sequence.admission_number = self._num_admitted = self._num_admitted + 1
        prefix = deepest_cached(sequence)
        source, must_zero = None if prefix is None else prefix.slot, slot in self._dirty_slots
        must_zero |= slot in self._fresh and self._fresh[slot].must_zero
        self._start(FreshSlot(slot, sequence.num_shared > 0, must_zero=must_zero, fork_of=source))
        self._dirty_slots.discard(slot)
        self.slots[slot] = sequence
        self._jobs.take(sequence)
        if prefix is not None:
            sequence.num_cached = len(prefix.sequence.prompt)
            if sequence.num_cached == len(sequence.prompt):
                self._started.append(StartedCompletion(slot, sequence, prefix.sequence.id))
        self._release_prefixes(self._prefixes.release_unused())
        if isinstance(sequence.request, GenerateRequest) and sequence.request.sampling.edits_logits:
            params = sequence.request.sampling
            sequence.edits = LogitEdits(params, sequence.prompt, ending_ids(params.stop, self.config))

    def _should_prefill(self) -> bool:
        """Whether the next step is a prefill step: the decode step would not be full, and the waiting prompts fill a
        whole prefill step, or few sequences decode in comparison with them, or they have waited long enough."""
        to_prefill = [s.num_to_prefill for s in (*self.slots, *self.prefixes) if s is not None and s.num_to_prefill]
        num_decoding = sum(s is not None and s.is_decoding for s in self.slots)
        num_empty = self.config.decode_rows - num_decoding
        if not to_prefill or num_empty <= 0:
            return False
        num_prompts = sum(s is not None and s.num_to_prefill > 0 for s in self.slots)
        # A prefix counts as the prompts that start behind it.
        num_prompts = max(1, num_prompts + min(self._prefixes.num_expected, self.slots.count(None)))
        if (
            sum(to_prefill) >= self._jobs.active.prefill_rows
            or num_decoding < MIN_DECODING_PER_PROMPT * num_prompts
            or self._num_empty_rows >= MAX_EMPTY_STEPS * self.config.decode_rows
        ):
            self._num_empty_rows = 0
            return True
        self._num_empty_rows += min(num_prompts, num_empty)
        return False

    def _build_prefill(self) -> StepBuilder:
        active = self._jobs.active
        builder = build_prefill_step(
            (*self.slots, *self._prefixes.sequences),
            active.prefill_rows,
            active.trie,
            window=self._window_size,
            max_chunk=self.config.prefill_rows,
        )
        for segment in builder.segments:
            if segment.tree_parents is None:
                self._owner(segment.slot).num_cached += segment.length
        return builder

    def _build_decode(self) -> StepBuilder | None:
        return build_decode_step(self.slots, self.config.decode_rows)

    def _owner(self, slot: int) -> ActiveSequence:
        sequence = (*self.slots, *self._prefixes.sequences)[slot]
        assert sequence is not None
        return sequence
