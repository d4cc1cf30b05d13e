"""Inputs in text formats: small JSONL, CSV, TSV and TXT files are read as they are."""
