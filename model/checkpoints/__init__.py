"""Model directories: one module for each checkpoint format, and what the formats share.

Start at `directory.py`: `open_checkpoint` detects the format, and `settings.resolve` completes the
configuration.
"""
