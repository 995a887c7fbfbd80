"""Plots: draw what is in the object, return Axes."""

from __future__ import annotations

from scbert_cll.pl._attention import attention_layers, gene_attention
from scbert_cll.pl._calls import confusion, donor_agreement
from scbert_cll.pl._cd49d import cd49d
from scbert_cll.pl._evaluation import evaluation, reliability
from scbert_cll.pl._history import history
from scbert_cll.pl._perturb import perturb
from scbert_cll.pl._prognosis import forest, prognosis_null
from scbert_cll.pl._programmes import programmes
from scbert_cll.pl._signature import signature
from scbert_cll.pl._signature_heatmap import signature_heatmap
from scbert_cll.pl._signature_report import faithfulness, signature_report, stability
from scbert_cll.pl._survival import survival

__all__ = [
    "attention_layers",
    "cd49d",
    "confusion",
    "donor_agreement",
    "evaluation",
    "faithfulness",
    "forest",
    "gene_attention",
    "history",
    "perturb",
    "prognosis_null",
    "programmes",
    "reliability",
    "signature",
    "signature_heatmap",
    "signature_report",
    "stability",
    "survival",
]
