"""Constrained decoding in a job: its settings, their check at planning, and the typed columns of a schema."""
