"""Attention: which keys a head may see, the KV cache, and the backends that compute attention over
it.

Start at `reference.py` (the specification), then read `block_layout.py` (the sparse pattern),
`kv_cache.py`, `step_layout.py` (where a step's rows go) and `backends/`.
"""
