"""What the pipeline takes, at sizes that no test can wait for: `python -m tests.scale` makes the tables of
docs/scale.md. The engine does nothing (`actors/echo.py`), so that all that is seen is ours and Ray's."""
