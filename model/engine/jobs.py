"""The jobs of an engine, and which of them runs.

The sequences of one job run at a time, because all of them read the same shared prefix. While a job is
active, the sequences of the other jobs wait. The policy:

- The active job runs until none of its sequences waits and none holds a slot.
- While another job waits, the active job admits at most `max_turn` more sequences. Its other sequences
  then wait for its next turn, so that no job waits for ever.
- The next job is the one that has waited longest: since its first sequence arrived, or since its last
  turn ended.

Nothing here needs torch or a model.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from tirazh.errors import RequestError
from tirazh.model.engine.config import EngineConfig
from tirazh.model.engine.labels.trie import SplitTrie, job_trie
from tirazh.model.engine.prefix_caching.tree import PrefixTree
from tirazh.model.engine.sequences import ActiveSequence
from tirazh.model.requests import EngineJob

# How many sequences a job may run while another one waits: at least the first number, and the second for
# each slot. A change of jobs costs the steps of a prefix and some steps that are not full. A thousand
# prompts of a hundred tokens take fifty times as long as a prefix of two thousand tokens.
_MIN_TURN, _TURN_OF_SLOT = 256, 32
# Where a label trie makes a prefill step longer, it grows to a multiple of the kernels' tiles of 64
# rows (64 queries in attention on a GPU, and a CPU's matmuls are at their best from about 64 rows
# on), whose last one would run half empty.
ROW_MULTIPLE = 64


@dataclass(slots=True, eq=False)
class JobQueue:
    """One job: its label trie, the rows of its prefill steps, and its sequences that wait, by id, in their order.

    `tree` has them by the tokens with which they begin, if prefixes are cached. `waits_since` orders the jobs by when
    they began to wait.
    """

    job: EngineJob
    trie: SplitTrie | None
    prefill_rows: int
    tree: PrefixTree | None
    waiting: dict[int, ActiveSequence] = field(default_factory=dict)
    waits_since: int = 0


class JobQueues:
    """All jobs of an engine. The first one is active at the start."""

    def __init__(self, config: EngineConfig, jobs: Sequence[EngineJob], *, window_size: int) -> None:
        """`jobs`: at least one. Raises RequestError as `add_job`."""
        self._config, self._window_size = config, window_size
        self._queues = [self._new_queue(job) for job in jobs]
        self.active = self._queues[0]
        self._clock = itertools.count()
        self._num_waiting = 0
        self._num_in_turn = 0  # sequences that the active job has admitted while others waited
        self.max_turn = max(_MIN_TURN, _TURN_OF_SLOT * config.num_slots)

    def __len__(self) -> int:
        return len(self._queues)

    def __getitem__(self, index: int) -> JobQueue:
        return self._queues[index]

    def add_job(self, job: EngineJob) -> int:
        """Return the index of a job, which is a new one unless an equal one is there.

        Raises RequestError for labels that are empty or equal, for token ids that the model does not have, and for
        a prefix that is longer than a sequence.
        """
        for index, queue in enumerate(self._queues):
            if queue.job == job:
                return index
        self._queues.append(self._new_queue(job))
        return len(self._queues) - 1

    @property
    def num_waiting(self) -> int:
        """Sequences of all jobs that wait."""
        return self._num_waiting

    @property
    def others_wait(self) -> bool:
        """Whether sequences of jobs that are not active wait."""
        return self._num_waiting > len(self.active.waiting)

    def add(self, queue: JobQueue, sequences: Sequence[ActiveSequence]) -> None:
        """Let sequences of a job wait, behind those that wait."""
        if not queue.waiting:
            queue.waits_since = next(self._clock)
        for sequence in sequences:
            queue.waiting[sequence.id] = sequence
            if queue.tree is not None:
                queue.tree.add(sequence)
        self._num_waiting += len(sequences)

    def cancel(self, ids: Collection[int]) -> None:
        """Drop the sequences with these ids."""
        for queue in self._queues:
            for sequence in [queue.waiting[id] for id in ids if id in queue.waiting]:
                self._remove(queue, sequence)

    def most_to_start(self, num_free: int) -> int:
        """Return how many waiting sequences of the active job may start now in `num_free` slots."""
        count = min(num_free, len(self.active.waiting))
        return min(count, self.max_turn - self._num_in_turn) if self.others_wait else count

    def take(self, sequence: ActiveSequence) -> None:
        """A waiting sequence of the active job starts."""
        self._num_in_turn += self.others_wait
        self._remove(self.active, sequence)

    def _remove(self, queue: JobQueue, sequence: ActiveSequence) -> None:
        del queue.waiting[sequence.id]
        self._num_waiting -= 1
        if queue.tree is not None:
            queue.tree.remove(sequence)

    def change_turn(self) -> bool:
        """Make the job active that has waited longest, if the turn of the active one is over. Returns
        whether there is another active job now. Call it when no sequence holds a slot."""
        is_over = not self.active.waiting or self._num_in_turn >= self.max_turn
        if not is_over or not self.others_wait:
            return False
        self.active.waits_since = next(self._clock)
        others = (queue for queue in self._queues if queue.waiting and queue is not self.active)
        self.active, self._num_in_turn = min(others, key=lambda queue: queue.waits_since), 0
        return True

    def _new_queue(self, job: EngineJob) -> JobQueue:
        self._check(job)
        trie = job_trie(job, self._config.num_tokens) if job.labels else None
        num_nodes = trie.max_nodes if trie else 0
        rows = rows_of_prefill(self._config.prefill_rows, self._window_size, num_nodes)
        has_tree = self._config.num_prefix_slots > 0
        tree = PrefixTree(window=self._window_size, max_chunk=self._config.prefill_rows) if has_tree else None
        return JobQueue(job, trie, rows, tree)

    def _check(self, job: EngineJob) -> None:
        """Raise RequestError for a job whose tokens are not the model's, or whose prefix is too long."""
        for tokens, what in ((job.prefix_token_ids, "shared prefix"), *((label, "label") for label in job.labels)):
            if tokens and not 0 <= min(tokens) <= max(tokens) < self._config.num_tokens:
                raise RequestError(f"a {what} of the job holds a token id outside 0 to {self._config.num_tokens - 1}")
        if len(job.prefix_token_ids) > self._config.max_length:
            raise RequestError(
                f"the job's shared prefix has {len(job.prefix_token_ids)} tokens; "
                f"a sequence has at most {self._config.max_length}"
            )


def rows_of_prefill(least: int, window_size: int, num_nodes: int) -> int:
    """Return the rows of a prefill step, `least` or more. A prompt's last chunk and the first piece of its
    label trie, of at most `num_nodes` nodes, share one step, so it holds both."""
    needed = min(window_size, least) + num_nodes
    return max(least, -(-needed // ROW_MULTIPLE) * ROW_MULTIPLE)
