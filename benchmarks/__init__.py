"""Compare tirazh with other engines on the same machine: `make bench`. Start reading at `run.py`.

Nothing in this folder is installed with tirazh.
"""
