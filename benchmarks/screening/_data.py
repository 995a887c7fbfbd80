"""Sets of the screening: tokens, classes, donors and protein levels, from the folder of real data
and the toy.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from mudata import read_h5mu
from scipy import sparse
from sklearn.model_selection import StratifiedKFold, train_test_split

import scbert_cll as sc_cll
from scbert_cll._evaluation.folds import donor_folds
from scbert_cll.datasets import cll_toy

MARKERS = ("CD45RA", "TIGIT", "CD127", "CD4", "CD8a")
SETS = (*MARKERS, "bmmc", "toy", "t_versus_b")


@dataclass
class Set:
    name: str
    counts: sparse.csr_matrix  # all cells
    y: np.ndarray  # 0, 1, or -1 without a label
    donor: np.ndarray | None
    levels: np.ndarray | None  # protein levels, (cells, proteins)
    own: np.ndarray | None  # level of the marker itself
    extra: sparse.csr_matrix | None = None  # further RNA of the same genes

    def __post_init__(self) -> None:
        self.counts = sparse.csr_matrix(self.counts, dtype=np.float64)
        self.log2, self.tokens = log2(self.counts), tokens(self.counts)


def log2(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    x = sparse.csr_matrix(counts, dtype=np.float64, copy=True)
    x.data = np.log2(1 + 1e4 * x.data / np.repeat(np.asarray(x.sum(1)).ravel(), np.diff(x.indptr)))
    return x


def tokens(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """scBERT's bins: whole part of log2(1 + 1e4 c / N), at most 5."""
    x = log2(counts)
    x.data = np.minimum(np.floor(x.data), 5)
    x.eliminate_zeros()
    x.sort_indices()
    return x


def load(name: str, folder: Path) -> Set:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name in MARKERS:
            return _pbmc(name, folder)
        return {"bmmc": _bmmc, "toy": _toy, "t_versus_b": _t_versus_b}[name](folder)


def _labelled(data: Any, adata: Any, **how: Any) -> np.ndarray:
    """Classes by mixture, or by outer thirds where it refuses."""
    try:
        sc_cll.pp.label_cd49d(data, **how)
    except ValueError:
        sc_cll.pp.label_cd49d(data, method="quantile", **how)
    return adata.obs["cd49d"].cat.codes.to_numpy().astype(int)


def _pbmc(marker: str, folder: Path) -> Set:
    adata = ad.read_h5ad(folder / "pbmc_10k_cite.h5ad")
    extra = ad.read_h5ad(folder / "pbmc_5k.h5ad")
    y = _labelled(adata, adata, marker=marker, normalize="clr_protein")
    level = np.log1p(adata.obsm["protein"].to_numpy(dtype=float))
    own = level[:, list(adata.obsm["protein"].columns).index(marker)]
    x = sparse.csr_matrix(extra[:, adata.var_names].X)
    return Set(marker, adata.X, y, None, level, own, x[np.asarray(x.sum(1)).ravel() > 0])


def _bmmc(folder: Path) -> Set:
    data = read_h5mu(folder / "bmmc_cite.h5mu")
    adata = data["rna"]
    y = _labelled(data, adata, marker="CD49d", normalize="clr_cell", donor_key="donor")
    level = np.log1p(sparse.csr_matrix(data["prot"].X).toarray().astype(float))
    level -= level.mean(1, keepdims=True)
    own = level[:, list(data["prot"].var_names).index("CD49d")]
    return Set("bmmc", adata.X, y, pd.factorize(adata.obs["donor"])[0], level, own)


def _toy(folder: Path) -> Set:
    data = cll_toy()
    adata = data["rna"]
    y = _labelled(data, adata, marker="CD49d", cells=sc_cll.pp.cll_mask(data), donor_key="donor")
    level = np.log1p(sparse.csr_matrix(data["prot"].X).toarray().astype(float))
    own = level[:, list(data["prot"].var_names).index("CD49d")]
    return Set("toy", adata.X, y, pd.factorize(adata.obs["donor"])[0], level, own)


def _t_versus_b(folder: Path) -> Set:
    adata = ad.read_h5ad(folder / "sorted_pbmc.h5ad")
    kind = adata.obs["cell_type"].astype(str)
    t = kind.isin(
        ["memoryt", "regulatoryt", "thelper", "cytotoxict", "naivet", "naivecytotoxic"]
    ).to_numpy()
    y = np.where(t, 1, np.where(kind == "bcells", 0, -1))
    keep = y >= 0
    return Set("t_versus_b", sparse.csr_matrix(adata.X)[keep], y[keep], None, None, None)


@dataclass
class Fold:
    number: int
    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    unlabelled: np.ndarray  # cells without a class that may be learned from


def folds(data: Set, outer: int = 0, n_inner: int = 3, n_cells: int | None = None) -> list[Fold]:
    """Inner folds inside the training part of one outer fold, whose test cells nobody sees; a sixth
    of a training part validates.

    With `n_cells` a training part is cut down to as many cells, validation included; the test cells
    stay.
    """
    rows = np.flatnonzero(data.y >= 0)
    inside = rows[_splits(data, rows, 5, 0)[outer][0]]
    unlabelled = np.flatnonzero(data.y < 0)
    found = []
    for i, (train, test) in enumerate(_splits(data, inside, n_inner, 1)):
        cells, out = inside[train], inside[test]
        if n_cells is not None and n_cells < len(cells):
            cells, _ = train_test_split(
                cells, train_size=n_cells, stratify=data.y[cells], random_state=i
            )
        fit, val = train_test_split(cells, test_size=1 / 6, stratify=data.y[cells], random_state=i)
        free = (
            unlabelled
            if data.donor is None
            else unlabelled[np.isin(data.donor[unlabelled], data.donor[cells])]
        )
        found.append(Fold(i, np.sort(fit), np.sort(val), out, free))
    return found


def _splits(data: Set, rows: np.ndarray, n: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """By donor where there are several, else stratified by class."""
    y = data.y[rows]
    donors = None if data.donor is None else data.donor[rows]
    if donors is None or len(np.unique(donors)) < 2:
        return list(StratifiedKFold(n, shuffle=True, random_state=seed).split(y, y))
    n = min(n, len(np.unique(donors)))
    return donor_folds(y, donors, n, seed)
