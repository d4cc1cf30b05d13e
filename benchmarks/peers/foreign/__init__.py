"""Engines that need an environment of their own, because their dependencies do not fit ours: `make bench-peers`.

`worker.py` starts `serve.py` with the Python of such an environment and sends it turns; `serve.py` loads one of the
engines beside it. `peer.py` is the peer that the benchmark sees.
"""
