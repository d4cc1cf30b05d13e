"""Replicas of a model as Ray actors: one replica is a whole copy of the model, made of
tensor-parallel ranks.

Knows requests and results, but no file format and no column name. Imports only `model`. Start at
`replica.py`.
"""
