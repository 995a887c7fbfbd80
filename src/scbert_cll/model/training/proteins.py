"""Protein levels as further things to learn."""

from __future__ import annotations

from typing import Final

import numpy as np
from anndata import AnnData

from scbert_cll import _checks

_FARTHEST: Final = 4.0  # standard deviations; a doublet shall not decide a batch


def protein_targets(adata: AnnData, key: str, train: np.ndarray) -> np.ndarray:
    """Logarithms of protein counts in units of their spread among the training cells: float32 (cells, proteins)."""
    level = np.log1p(_checks.adata.protein_counts(adata, key))
    seen = level[train]
    spread = seen.std(0)
    varying = spread > 0
    standard = (level[:, varying] - seen[:, varying].mean(0)) / spread[varying]
    return np.asarray(np.clip(standard, -_FARTHEST, _FARTHEST), dtype=np.float32)
