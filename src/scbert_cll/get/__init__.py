"""Tidy tables out of an AnnData: sorted and filtered; nothing is computed but a difference."""

from scbert_cll.get._genes import REST as REST
from scbert_cll.get._genes import gene_attention, signature
from scbert_cll.get._predicted import donor_table, evaluation, out_of_fold, predictions
from scbert_cll.get._prognosis import prognosis, survival
from scbert_cll.get._programmes import programmes

__all__ = [
    "donor_table",
    "evaluation",
    "gene_attention",
    "out_of_fold",
    "predictions",
    "prognosis",
    "programmes",
    "signature",
    "survival",
]
