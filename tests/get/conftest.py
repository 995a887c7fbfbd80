"""What the tables are taken out of."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from tests._make import unchanged

GENES = ["MALAT1", "RPL3", "LPL", "IL4R", "ITGA4"]


@pytest.fixture
def adata() -> AnnData:
    n = 6
    adata = AnnData(
        np.ones((n, len(GENES)), np.float32),
        obs=pd.DataFrame(index=[f"c{i}" for i in range(n)]),
        var=pd.DataFrame(index=GENES),
    )
    attention = {
        "low": [0.5, 0.2, 0.05, 0.2, 0.05],
        "mid": [0.5, 0.2, 0.1, 0.1, 0.1],
        "high": [0.5, 0.2, 0.2, 0.05, 0.05],
    }
    adata.varm["gene_attention"] = pd.DataFrame(attention, adata.var_names)
    adata.obs["cd49d"] = pd.Categorical(
        ["CD49d-", "CD49d+", None, "CD49d-", "CD49d+", "CD49d-"], ["CD49d-", "CD49d+"]
    )
    adata.obs["split"] = pd.Categorical(["train", "train", "val", "test", "test", "test"])
    adata.obs["scbert_pred"] = pd.Categorical(
        ["CD49d-", "CD49d+", "CD49d+", "CD49d+", "CD49d+", "CD49d-"]
    )
    adata.obs["scbert_score"] = np.linspace(0.5, 1, n, dtype=np.float32)
    positive = np.linspace(0, 1, n)
    proba = {"CD49d-": 1 - positive, "CD49d+": positive}
    adata.obsm["scbert_proba"] = pd.DataFrame(proba, adata.obs_names)
    donors = pd.DataFrame(
        {"n_cells": [3, 3], "pct_positive": [10.0, 60.0], "bimodal": [False, True]},
        index=["D1", "D2"],
    )
    adata.uns["cd49d"] = {"donors": donors, "thresholds": {"all": 1.0}}
    return adata


@pytest.fixture(autouse=True)
def left_as_it_was(adata: AnnData) -> Iterator[None]:
    with unchanged(adata):
        yield
