"""`accepted: N`: attempts in rounds, until every cell of a crossing has enough rows that pass. Start at `run.py`."""
