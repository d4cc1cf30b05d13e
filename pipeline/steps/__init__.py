"""Jobs of several steps: every step is planned first, then run, then its rows are the input of the next one.

Start reading at `run.py`.
"""
