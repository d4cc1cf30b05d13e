"""WHAT IS COMPUTED: the sparse GPT, its checkpoints and the batch engine.

Imports nothing of the other three rooms, and never Ray. Start reading at `gpt.py`, then `engine/batch_engine.py`.
"""
