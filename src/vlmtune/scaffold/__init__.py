"""`vlmtune init`: a dataset as it lies on disk becomes a config."""
