"""Models in object stores (`model: s3://…`): fetched once for each machine into a cache of bounded size."""
