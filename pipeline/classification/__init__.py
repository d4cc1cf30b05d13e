"""Classification: labels and questions, the scores of labels, calibration, and the decision for a row."""
