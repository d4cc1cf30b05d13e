"""Our own kernels: in C for CPUs, compiled on the machine that runs them (`build.py`, which uses
`compiler.py` and `cache.py`), and in Triton for GPUs.

Each has a torch implementation beside its caller for machines where it cannot run. `tables.py`
defines the tables that the attention kernels read.
"""
