"""Pages about an output for people: the report and the dataset card."""
