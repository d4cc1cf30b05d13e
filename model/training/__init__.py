"""Fine-tuning: the training loop, its data on disk, its checkpoints, and the exported model.

Start at `loop.py`.
"""
