"""Records of runs in MLflow, Weights & Biases and OpenLineage, through their own libraries."""
