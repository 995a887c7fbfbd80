"""Models with the verbs of scvi-tools: set up, train, predict, save, load.

And a corpus to train them on.
"""

from scbert_cll.model._classifier import ScBERTClassifier
from scbert_cll.model._scbert import ScBERT
from scbert_cll.model.corpus.data import CorpusData
from scbert_cll.model.exchange.repair import repair_model

__all__ = ["CorpusData", "ScBERT", "ScBERTClassifier", "repair_model"]
