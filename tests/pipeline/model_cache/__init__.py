"""The cache of models from object stores."""
