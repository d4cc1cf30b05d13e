"""WHO HOLDS THE GPUS: a replica (one whole copy of the model) and its tensor-parallel ranks, as Ray actors.

Knows requests and results, no file format and no column name. Imports only `model`. Start at `replica.py`.
"""
