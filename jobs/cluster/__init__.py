"""Jobs on a Ray cluster that is reached through its job server."""
