"""Ours and every peer side by side: `make bench`. Start reading at `run.py`; nothing here is installed with tirazh."""
