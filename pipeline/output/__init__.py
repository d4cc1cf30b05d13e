"""Output directories: file names, the lease, the sink, receipts, the manifest and the report.

Start reading at `names.py`; `docs/commit-protocol.md` explains the order of the writes.
"""
