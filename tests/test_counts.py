"""Log-normalisation is scanpy's, whatever the matrix is stored as."""

from __future__ import annotations

import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse

from scbert_cll._counts import log_normalised


def counts() -> np.ndarray:
    values = np.random.default_rng(0).poisson(0.7, (30, 20)).astype(np.float64)
    values[4] = 0
    return values


@pytest.mark.filterwarnings("ignore:Some cells have zero counts")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csc_matrix])
def test_log_normalised_is_scanpys(kind, dtype) -> None:
    adata = AnnData(sparse.csr_matrix(counts(), dtype=dtype))
    adata.obs_names, adata.var_names = [f"c{i}" for i in range(30)], [f"g{i}" for i in range(20)]
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    given = kind(counts())
    log = log_normalised(given, dtype=dtype)
    assert log.dtype == dtype
    np.testing.assert_allclose(log.toarray(), adata.X.toarray(), rtol=1e-6)
    np.testing.assert_array_equal(given.toarray(), counts())
    log2 = log_normalised(given, base=2, dtype=dtype)
    np.testing.assert_allclose(log2.toarray() * np.log(2), log.toarray(), rtol=1e-5)


def test_totals_may_count_more_than_these_genes() -> None:
    values = counts() + 1
    whole = log_normalised(sparse.csr_matrix(values)).toarray()
    part = log_normalised(sparse.csr_matrix(values[:, :5]), totals=values.sum(axis=1))
    np.testing.assert_array_equal(part.toarray(), whole[:, :5])


def test_stored_zeros_are_dropped_and_empty_cells_stay_empty() -> None:
    stored = sparse.csr_matrix(counts())
    stored.data[::2] = 0
    log = log_normalised(stored)
    assert (log.data > 0).all()
    assert log[4].nnz == 0
