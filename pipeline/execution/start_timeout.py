"""Gives Ray's processes longer to start than Ray does by itself: a busy machine may need minutes.

Ray 2.60 waits 30 s until its node is registered, in a loop whose limit no setting changes. Each turn of the loop calls
`get_node`, so that a `get_node` that waits itself has the wanted limit.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray

_PAUSE_S = 0.2
# Ray reads these when it starts its processes. The limits are in the units of the names.
_LIMITS = {
    "RAY_gcs_server_port_wait_time_s": "{seconds}",
    "RAY_worker_register_timeout_seconds": "{seconds}",
    "RAY_agent_register_timeout_ms": "{seconds}000",
}


@contextmanager
def start_timeout(seconds: int) -> Iterator[None]:
    """Inside the block, a node that `ray.init` starts has `seconds` to register, and its processes as long to start.

    A limit that the user has set in the environment stays.
    """
    added = [name for name in _LIMITS if name not in os.environ]
    os.environ.update({name: _LIMITS[name].format(seconds=seconds) for name in added})
    services: Any = ray._private.services
    ask = services.get_node
    services.get_node = _waiting(ask, seconds)
    try:
        yield
    finally:
        services.get_node = ask
        for name in added:
            os.environ.pop(name, None)


def _waiting(ask: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    """Return `ask`, asked again until it does not raise RuntimeError, for at most `seconds`."""

    def wait(*arguments: Any, **options: Any) -> Any:
        until = time.monotonic() + seconds
        while True:
            try:
                return ask(*arguments, **options)
            except RuntimeError:
                if time.monotonic() >= until:
                    raise
            time.sleep(_PAUSE_S)

    return wait
