"""Elements of files as HDF5 holds them, and damage that must not be read as something else."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import scbert_cll as sc_cll


@pytest.mark.parametrize("stored_by", [sparse.csr_matrix, sparse.csc_matrix])
def test_a_place_beyond_32_bits_is_refused_before_it_is_narrowed(stored_by, tmp_path: Path) -> None:
    X = stored_by(np.random.default_rng(0).poisson(2, (60, 20)).astype(np.float32))
    obs = pd.DataFrame({"donor": ["D1", "D2"] * 30}, index=[f"c{i}" for i in range(60)])
    adata = AnnData(X, obs=obs, var=pd.DataFrame(index=[f"G{i}" for i in range(20)]))
    path = tmp_path / "cells.h5ad"
    adata.write_h5ad(path)
    with h5py.File(path, "r+") as h5:
        places = h5["X/indices"][:].astype(np.int64)
        places[4] += 2**32  # in 32 bits the same as before
        del h5["X/indices"]
        h5["X/indices"] = places
    damage = f"matrix is damaged: it names column {places[4]}"
    with pytest.raises(ValueError, match=f"cells.h5ad: .*{damage}"):
        sc_cll.pp.build_corpus(path, tmp_path / "c.zarr", vocab=adata)
    assert not (tmp_path / "c.zarr").exists()
