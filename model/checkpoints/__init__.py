"""Reading model directories: one file for each checkpoint format, and what the formats share.

Start at `directory.py`: `open_checkpoint` detects the format.
"""
