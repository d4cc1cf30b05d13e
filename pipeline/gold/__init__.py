"""Finished outputs of classify, read with their gold labels."""
