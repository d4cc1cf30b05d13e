"""Layers that replace torch's own at inference time, and the probe that chooses the dtype."""
