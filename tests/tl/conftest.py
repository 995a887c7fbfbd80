"""One small data set that went through all steps before the models, made once."""

from __future__ import annotations

import pytest
from anndata import AnnData

import scbert_cll as sc_cll
from tests.tl._taught import taught

FAST = {"max_epochs": 2, "batch_size": 64, "accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture(scope="session")
def prepared() -> AnnData:
    """Cells with tokens, labels, split, weights and gene vectors; copy before changing it."""
    mdata = sc_cll.datasets.cll_toy(n_cells=600, n_genes=250, rng=0)
    sc_cll.pp.label_cd49d(
        mdata, normalize="clr_protein", cells=sc_cll.pp.cll_mask(mdata), donor_key="donor"
    )
    adata = mdata["rna"].copy()
    sc_cll.pp.split_donors(adata, "donor", labels_key="cd49d", rng=0)
    sc_cll.pp.bin_expression(adata)
    sc_cll.pp.balance(adata, "cd49d")
    sc_cll.tl.gene2vec(adata, n_dims=24, rng=0)
    return adata


@pytest.fixture(scope="session")
def trained(prepared):
    """The same cells after tl.pretrain and tl.finetune, and both models."""
    adata = prepared.copy()
    pretrained = sc_cll.tl.pretrain(adata, **FAST | {"max_epochs": 4})
    classifier = sc_cll.tl.finetune(adata, pretrained, **FAST | {"max_epochs": 4})
    return adata, pretrained, classifier


@pytest.fixture(scope="session")
def _learned():
    adata = sc_cll.datasets.planted_donors(n_cells=80, n_genes=100, n_planted=18, rng=0)
    return adata, taught(adata, 12)


@pytest.fixture
def learned(_learned):
    """Planted cells and a network that has learned them."""
    adata, model = _learned
    return adata.copy(), model
