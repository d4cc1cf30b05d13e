"""The crossing of `vary`: lists of values, every combination of which is a cell, and the rows of the cells.

The rows are an input without a file: `crossing.py` gives those of any range by arithmetic. Start reading at
`declaration.py` (what a user may write), then `crossing.py`.
"""
