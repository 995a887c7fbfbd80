"""Plots: draw what is in the object, return Axes."""

from __future__ import annotations

from scbert_cll.pl._attention_layers import attention_layers
from scbert_cll.pl._cd49d import cd49d
from scbert_cll.pl._confusion import confusion
from scbert_cll.pl._donor_agreement import donor_agreement
from scbert_cll.pl._evaluation import evaluation
from scbert_cll.pl._faithfulness import faithfulness
from scbert_cll.pl._forest import forest
from scbert_cll.pl._gene_attention import gene_attention
from scbert_cll.pl._history import history
from scbert_cll.pl._perturb import perturb
from scbert_cll.pl._prognosis_null import prognosis_null
from scbert_cll.pl._reliability import reliability
from scbert_cll.pl._signature import signature
from scbert_cll.pl._signature_heatmap import signature_heatmap
from scbert_cll.pl._signature_report import signature_report
from scbert_cll.pl._stability import stability
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
    "reliability",
    "signature",
    "signature_heatmap",
    "signature_report",
    "stability",
    "survival",
]
