"""The lease of an output: at most one run writes to it, and a late write of an earlier one is refused."""
