"""Counts of single cells on one scale."""

from __future__ import annotations

import numpy as np
from scipy import sparse

_TARGET_SUM = 1e4


def log_counts(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """log(1 + counts per 10,000), float64, of the genes that are there; sparse stays sparse.

    A cell without counts stays empty.
    """
    log = sparse.csr_matrix(counts, dtype=np.float64, copy=True)
    log.eliminate_zeros()
    totals = np.asarray(log.sum(axis=1)).ravel()
    log.data = np.log1p(log.data * (_TARGET_SUM / np.repeat(totals, np.diff(log.indptr))))
    return log
