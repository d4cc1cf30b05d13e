"""Input files: listing them, reading footers, cutting them into parts, reading parts.

Start reading at `files.py`, then `parts.py`.
"""
