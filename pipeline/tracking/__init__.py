"""Records of runs: metrics for Prometheus; MLflow, Weights & Biases and OpenLineage through their own libraries."""
