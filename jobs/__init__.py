"""HOW A RUN STARTS: command line, Python entry points, submission to a cluster. No logic of its own.

Start at `cli.py`. May import every other room; nothing imports it but the `tirazh` façade.
"""
