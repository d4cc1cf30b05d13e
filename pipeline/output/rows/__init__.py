"""The rows of a part file: one for each sample of an input row, and back."""
