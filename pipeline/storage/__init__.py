"""Files on disks and in object stores, and the one sentence that each failure becomes.

Start at `filesystem.py`.
"""
