"""Columns of the input: their Arrow types, logical types and metadata, and the columns of directories."""
