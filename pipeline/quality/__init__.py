"""Judges the rows that were generated: filters, masks of personal data, contamination."""
