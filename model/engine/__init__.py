"""The batch engine: scheduling, one forward step at a time, sampling and label scoring.

Start at `batch_engine.py`.
"""
