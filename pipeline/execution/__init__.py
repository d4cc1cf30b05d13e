"""Running a job on Ray: the Ray Data graph, the inference step, the Ray session, heartbeats and progress.

Start reading at `graph.py`.
"""
