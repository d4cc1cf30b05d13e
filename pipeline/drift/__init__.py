"""Compares a finished output with earlier ones: what changed beyond chance, and by how much."""
