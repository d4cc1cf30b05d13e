"""The Python API: the functions that `import tirazh` offers, their typed settings and their results.

Users import everything from `tirazh`; `functions.py` is the place to start reading.
"""
