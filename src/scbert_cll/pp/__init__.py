"""Preprocessing: AnnData in, AnnData out, before any model."""

from __future__ import annotations

from scbert_cll.pp._align_genes import align_genes
from scbert_cll.pp._bin_expression import bin_expression

__all__ = [
    "align_genes",
    "bin_expression",
]
