"""Input files: listing them, reading footers, cutting them into parts, reading parts.

Start at `files.py`, then `parts.py`.
"""
