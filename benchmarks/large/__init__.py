"""What the benchmark of a model as large as ruGPT-3 13B needs: a checkpoint, a float32 reference, recorded logits."""
