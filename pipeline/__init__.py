"""Jobs over rows: the spec, the plan, parts, prompts, labels, the Ray Data graph and output files.

The package imports `actors` and those modules of `model` that need no torch. Start reading at
`build.py`, which runs one job.
"""
