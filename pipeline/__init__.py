"""WHAT HAPPENS TO ROWS: the job's spec, parts, prompts, labels, the Ray Data graph, output files, the ledger.

Imports `actors`, and of `model` only what needs no torch. Start at `build.py`: the whole way of a row on one screen.
"""
