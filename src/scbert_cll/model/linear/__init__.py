"""The logistic regression beside a network."""
