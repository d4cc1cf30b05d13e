"""The sparse GPT, its checkpoints, its batch engine and its training.

Imports none of the packages above (actors, pipeline, jobs) and never Ray. Start at `transformer.py`,
then read `engine/batch_engine.py`.
"""
