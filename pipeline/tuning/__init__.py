"""Finds the settings of a classify job that are best on a labelled sample, under a budget of tokens."""
