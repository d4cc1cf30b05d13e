"""Calibration that is fitted on rows with gold labels: the methods, the choice between them, and error guarantees."""
