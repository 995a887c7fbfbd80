"""A corpus on disk as data of a model."""
