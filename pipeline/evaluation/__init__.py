"""Figures of labels against gold labels: pure functions of NumPy arrays."""
