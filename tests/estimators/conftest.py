"""Small simulated cells of eight donors, with a signal that no classifier can miss, and spies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from scbert_cll.datasets import cll_toy
from scbert_cll.estimators import CellEstimator

PLANTED = 12  # genes, the last ones


def _plant(signal: bool = True, n_cells: int = 360) -> AnnData:
    """Toy cells with labels "neg" < "pos" in all donors; a seventh of the training donors' cells
    have none.
    """
    adata = cll_toy(n_donors=8, n_cells=n_cells, n_genes=200, programme=False)["rna"]
    rng = np.random.default_rng(1)
    is_pos = rng.random(adata.n_obs) < 0.4
    counts = adata.X.toarray()
    if signal:
        high = [*range(adata.n_vars - PLANTED, adata.n_vars), adata.var_names.get_loc("ITGA4")]
        counts[np.ix_(np.flatnonzero(is_pos), high)] += rng.poisson(8, (is_pos.sum(), len(high)))
    obs = pd.DataFrame({"donor": adata.obs["donor"].astype(str)}, index=adata.obs_names)
    obs["label"] = pd.Categorical(np.where(is_pos, "pos", "neg"), ["neg", "pos"], ordered=True)
    test = obs["donor"].isin(["D01", "D02"]).to_numpy()
    obs.loc[~test & (np.arange(adata.n_obs) % 7 == 0), "label"] = np.nan
    obs["test"] = test
    return AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=obs, var=adata.var[[]])


@pytest.fixture(scope="session")
def plant() -> Callable[..., AnnData]:
    """Make cells: `plant(signal, n_cells)`."""
    return _plant


@pytest.fixture(scope="session")
def _cells() -> AnnData:
    return _plant()


@pytest.fixture
def train(_cells: AnnData) -> AnnData:
    """Cells of six donors, some unlabelled."""
    return _cells[~_cells.obs["test"]].copy()


@pytest.fixture
def test(_cells: AnnData) -> AnnData:
    """Cells of two other donors."""
    return _cells[_cells.obs["test"]].copy()


class Spy(CellEstimator):
    """Says what it was given to learn from and to predict; knows nothing."""

    seen: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, level: float = 0.5, rng: int = 0) -> None:
        self.level = level
        self.rng = rng

    def fit(
        self,
        adata: AnnData,
        y: pd.Series,
        groups: pd.Series | None = None,
        sample_weight: np.ndarray | None = None,
    ) -> Spy:
        self.seen.append({"adata": adata.copy(), "y": y, "groups": groups, "weight": sample_weight})
        self.classes_ = y.cat.categories.to_numpy(dtype=str)
        return self

    def predict_proba(self, adata: AnnData) -> np.ndarray:
        self.seen[-1]["predicted"] = list(adata.obs_names)
        return np.tile([1 - self.level, self.level], (adata.n_obs, 1))


@pytest.fixture
def spy() -> type[Spy]:
    """The class of a spy with an empty notebook, `spy.seen`."""
    Spy.seen.clear()
    return Spy
