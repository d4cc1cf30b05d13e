"""Compare tirazh with other engines on the same machine: `make bench`. Start reading at `run.py`.

Nothing in this folder is installed with tirazh.
"""

from tirazh.actors.rendezvous import bounded_spinning

with bounded_spinning():  # as in a replica
    import torch as torch
