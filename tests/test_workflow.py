"""The whole chain with scanpy before and after, to a file and back."""

from __future__ import annotations

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pytest
import scanpy as sc

import scbert_cll as sc_cll

FAST = {"max_epochs": 2, "batch_size": 64, "accelerator": "cpu", "enable_progress_bar": False}


@pytest.mark.filterwarnings("ignore:n_jobs value")  # umap says so whenever it is given a seed
def test_scanpy_before_and_after_then_file_then_predict_again(tmp_path):
    mdata = sc_cll.datasets.cll_toy(n_cells=500, n_genes=250, rng=1)
    sc_cll.pp.label_cd49d(mdata, normalize="clr_protein", donor_key="donor")
    adata = mdata["rna"].copy()
    sc.pp.calculate_qc_metrics(adata, percent_top=None, inplace=True)
    sc.pp.filter_cells(adata, min_genes=20)
    sc.pp.filter_genes(adata, min_cells=3)
    adata = adata[adata.obs["n_genes_by_counts"] < 240].copy()

    sc_cll.pp.split_donors(adata, "donor", labels_key="cd49d")
    sc_cll.pp.bin_expression(adata)
    sc_cll.pp.balance(adata, "cd49d")
    sc_cll.tl.gene2vec(adata, n_dims=16)
    model = sc_cll.tl.finetune(adata, sc_cll.tl.pretrain(adata, **FAST), **FAST)
    sc_cll.tl.gene_attention(adata, model)

    sc.pp.neighbors(adata, use_rep="X_scbert", n_neighbors=10)
    sc.tl.umap(adata, maxiter=20)
    figure = sc.pl.umap(adata, color=["scbert_pred", "cd49d"], show=False, return_fig=True)
    assert [axis.get_title() for axis in figure.axes[:2]] == ["scbert_pred", "cd49d"]
    sc_cll.pl.gene_attention(adata, show=False)
    plt.close("all")

    model.save(tmp_path / "model")
    adata.write_h5ad(tmp_path / "cells.h5ad")
    again = ad.read_h5ad(tmp_path / "cells.h5ad")
    for name in ("scbert_pred", "scbert_score"):
        assert (again.obs[name] == adata.obs[name]).all()
    np.testing.assert_array_equal(again.obsm["scbert_proba"], adata.obsm["scbert_proba"])
    np.testing.assert_array_equal(again.varm["gene_attention"], adata.varm["gene_attention"])
    sc_cll.tl.predict(again, sc_cll.ScBERTClassifier.load(tmp_path / "model"))
    np.testing.assert_array_equal(again.obsm["scbert_proba"], adata.obsm["scbert_proba"])
    np.testing.assert_array_equal(again.obsm["X_scbert"], adata.obsm["X_scbert"])
