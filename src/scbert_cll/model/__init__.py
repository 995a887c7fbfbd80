"""Models with the verbs of scvi-tools: set up, train, predict, save, load."""

from scbert_cll.model._classifier import ScBERTClassifier
from scbert_cll.model._scbert import ScBERT

__all__ = ["ScBERT", "ScBERTClassifier"]
