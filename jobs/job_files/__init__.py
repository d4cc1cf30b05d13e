"""Job files: from YAML to a checked spec."""
