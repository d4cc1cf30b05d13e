"""tirazh without cached prefixes: every prompt is prefilled as a whole.

Everything else is the engine itself. The difference between the two on the same rows is what prompts gain by sharing.
"""

from __future__ import annotations

from benchmarks.peers.ours import Ours
from benchmarks.workloads import Workload


class OursUnshared(Ours):
    family = "tirazh without cached prefixes"
    kinds = frozenset({"generate"})
    caches_prefixes = False

    def takes(self, workload: Workload) -> bool:
        """Only the workloads whose prompts begin with the same tokens."""
        return workload.group > 1
