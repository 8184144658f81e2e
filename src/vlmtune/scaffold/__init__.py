"""`vlmtune init`: infers a config from a dataset on disk or on the Hub."""
