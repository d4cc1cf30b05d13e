"""Attention: which keys a head may see, the KV cache, and one file for each way of computing attention.

Start at `reference.py` (the specification), then `block_layout.py` (the sparse pattern) and `step_attention.py`.
"""
