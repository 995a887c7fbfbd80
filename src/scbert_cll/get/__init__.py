"""Tidy tables out of an AnnData: sorted and filtered; nothing is computed but a difference."""

from scbert_cll.get._evaluation import evaluation, out_of_fold
from scbert_cll.get._gene_attention import REST as REST
from scbert_cll.get._gene_attention import gene_attention
from scbert_cll.get._predictions import donor_table, predictions
from scbert_cll.get._prognosis import prognosis, survival
from scbert_cll.get._signature import signature

__all__ = [
    "donor_table",
    "evaluation",
    "gene_attention",
    "out_of_fold",
    "predictions",
    "prognosis",
    "signature",
    "survival",
]
