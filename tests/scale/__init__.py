"""Measures the pipeline at sizes too large for tests; `python -m tests.scale` makes the tables of docs/scale.md.

The engine does nothing (`actors/echo.py`), so that only the cost of tirazh's pipeline and of Ray is
measured.
"""
