"""The Ray side of a job: the Ray Data graph, the inference step, the session, liveness and progress.

Start at `graph.py`.
"""
