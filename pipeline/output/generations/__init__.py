"""Changes of a complete output that keep its rows: more rows, new answers to failed rows, fewer and larger files."""
