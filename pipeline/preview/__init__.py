"""A few rows of a job, made in this process without Ray, and a forecast from them."""
