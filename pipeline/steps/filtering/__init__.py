"""The filter step: it judges rows, finds duplicates, and writes kept and dropped rows. Start reading at `run.py`."""
