"""Finished outputs of classify, calibrated and labelled again from their stored probabilities, without the model."""
