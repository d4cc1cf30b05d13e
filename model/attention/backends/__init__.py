"""Attention backends of the batch engine, one file each: C kernels (`cpu.py`), Triton (`gpu.py`),
torch (`plain.py`).

Start at `interface.py` (what a backend is) and `choose.py` (which one a model gets). Every backend
computes the same attention; `attention/reference.py` is the specification.
"""
