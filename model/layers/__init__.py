"""Layers that replace torch's own for inference, and the probe that chooses the dtype."""
