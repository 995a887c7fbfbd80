"""Counts on a common scale."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from scipy import sparse

TARGET_SUM: Final = 1e4


def log_normalised(
    counts: sparse.spmatrix,
    *,
    totals: np.ndarray | None = None,
    base: int | None = None,
    dtype: type[np.floating[Any]] = np.float64,
) -> sparse.csr_matrix:
    """log(1 + counts per 10,000) of every cell, as a new CSR matrix without stored zeros.

    As ``scanpy.pp.normalize_total(target_sum=1e4)`` and ``scanpy.pp.log1p``. A cell without counts
    stays empty.

    Parameters
    ----------
    counts
        Cells × genes, zero or more; left as they are.
    totals
        Counts of each cell. By default those of the genes in `counts`.
    base
        Of the logarithm: None (natural) or 2.
    dtype
        Of the result.
    """
    log = sparse.csr_matrix(counts, dtype=dtype, copy=True)
    log.eliminate_zeros()
    if totals is None:
        totals = np.asarray(log.sum(axis=1, dtype=np.float64)).ravel()
    factors = TARGET_SUM / np.where(totals > 0, totals, 1)
    log.data *= np.repeat(factors.astype(dtype), np.diff(log.indptr))
    log.data = np.log1p(log.data) if base is None else np.log2(1 + log.data)
    return log
