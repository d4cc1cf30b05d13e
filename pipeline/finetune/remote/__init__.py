"""A training whose output is in an object store: it works in a directory of a disk, and its checkpoints and its model
are uploaded.

Start at `output.py`. docs/finetune.md, "An output in an object store", says what this gives.
"""
