"""The runs of an output: `_tirazh/runs.jsonl`, and what follows from it: history, state and age of an output."""
