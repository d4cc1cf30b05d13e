"""Commands that use the probabilities of a finished output, without Ray and without the model."""
