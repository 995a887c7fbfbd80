"""Tidy tables out of an AnnData: sorted and filtered; nothing is computed but a difference."""

from scbert_cll.get._donor_table import donor_table
from scbert_cll.get._evaluation import evaluation, out_of_fold
from scbert_cll.get._gene_attention import REST as REST
from scbert_cll.get._gene_attention import gene_attention
from scbert_cll.get._predictions import predictions
from scbert_cll.get._prognosis import prognosis
from scbert_cll.get._signature import signature
from scbert_cll.get._survival import survival

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
