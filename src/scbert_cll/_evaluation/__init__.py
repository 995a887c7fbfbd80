"""Folds, metrics and their uncertainty: arrays in, tables out; no AnnData, no network."""
