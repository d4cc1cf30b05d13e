"""The batch engine: a scheduler, forward steps on the model, sampling and label scoring.

Start at `batch_engine.py`, then `scheduler.py`.
"""
