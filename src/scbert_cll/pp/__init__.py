"""Preprocessing: AnnData in, AnnData out, before any model."""

from __future__ import annotations

from scbert_cll.pp._align_genes import align_genes
from scbert_cll.pp._balance import balance
from scbert_cll.pp._bin_expression import bin_expression
from scbert_cll.pp._build_corpus import build_corpus
from scbert_cll.pp._collapse_probes import collapse_probes
from scbert_cll.pp._intersect_obs import intersect_obs
from scbert_cll.pp._label_cd49d import cll_mask, label_cd49d
from scbert_cll.pp._split_donors import split_donors
from scbert_cll.pp._to_human import to_human

__all__ = [
    "align_genes",
    "balance",
    "bin_expression",
    "build_corpus",
    "cll_mask",
    "collapse_probes",
    "intersect_obs",
    "label_cd49d",
    "split_donors",
    "to_human",
]
