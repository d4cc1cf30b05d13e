"""Output directories: names, the lease, the sink, receipts, manifest and report.

Start at `names.py`; `docs/commit-protocol.md` explains the order of the writes.
"""
