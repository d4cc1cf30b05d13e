"""Duplicates among the rows of a job, and between a job and earlier outputs.

Start at `find.py`. `signatures.py` says what is stored of a row, `survivors.py` which row of a cluster stays.
"""
