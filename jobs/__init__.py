"""The command line, the Python API, job files and submission to a cluster.

Start at `cli.py`, or at `api/functions.py` for the Python API. This package may import every other
one.
"""
