from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse

import scbert_cll as sc_cll
from tests._make import unchanged


def test_columns_are_shares_and_cells_without_a_group_are_left_out(trained):
    adata, _, classifier = trained
    result = sc_cll.tl.gene_attention(adata, classifier, copy=True)
    table = result.varm["gene_attention"]
    assert list(table.columns) == ["CD49d-", "CD49d+"]
    np.testing.assert_allclose(table.sum(), 1, rtol=1e-12)
    assert (table.to_numpy() >= 0).all()
    labelled = adata[adata.obs["cd49d"].notna().to_numpy()].copy()
    alone = sc_cll.tl.gene_attention(labelled, classifier, copy=True).varm["gene_attention"]
    np.testing.assert_allclose(table, alone, atol=1e-7)
    assert result.uns["gene_attention"]["n_cells"] == adata.obs["cd49d"].value_counts().to_dict()


def test_per_cell_attention_is_as_sparse_as_the_tokens_and_averages_to_the_groups(trained):
    adata, _, classifier = trained
    result = sc_cll.tl.gene_attention(adata, classifier, per_cell=True, copy=True)
    cells = result.layers["gene_attention"]
    assert sparse.issparse(cells)
    assert cells.dtype == np.float32
    assert (cells > 0).nnz <= adata.layers["binned"].nnz
    np.testing.assert_allclose(np.asarray(cells.sum(1)).ravel(), 1, rtol=1e-5)
    positive = (adata.obs["cd49d"] == "CD49d+").to_numpy()
    mean = np.asarray(cells[positive].mean(0)).ravel()
    np.testing.assert_allclose(result.varm["gene_attention"]["CD49d+"], mean, atol=1e-6)


def test_gene_and_cell_order_do_not_matter(trained):
    adata, _, classifier = trained
    expected = sc_cll.tl.gene_attention(adata, classifier, copy=True).varm["gene_attention"]
    turned = adata[::-1, ::-1].copy()
    found = sc_cll.tl.gene_attention(turned, classifier, batch_size=13, copy=True).varm[
        "gene_attention"
    ]
    np.testing.assert_allclose(found.loc[expected.index], expected, atol=1e-7)


def test_a_pretrained_model_has_attention_too(trained):
    adata, pretrained, _ = trained
    result = sc_cll.tl.gene_attention(adata, pretrained, groupby="donor", copy=True)
    assert result.varm["gene_attention"].shape == (adata.n_vars, 10)


def test_uniform_attention_is_told(trained):
    adata, _, classifier = trained
    result = sc_cll.tl.gene_attention(adata, classifier, copy=True)
    (floor,) = result.uns["gene_attention"]["attention_floor"]
    assert 0 < floor < 0.9
    loud = sc_cll.ScBERTClassifier.from_pretrained(trained[1], adata, labels_key="cd49d")
    with torch.no_grad():
        loud.module.blocks[0].attention.qkv.weight[32:64] *= (
            100  # keys so long that their features vanish
        )
    with pytest.warns(UserWarning, match="Attention is nearly uniform: 100% of its features"):
        result = sc_cll.tl.gene_attention(adata, loud, copy=True)
    # what is left is how often a gene attends: each cell spreads its attention evenly
    tokens = adata.layers["binned"][(adata.obs["cd49d"] == "CD49d+").to_numpy()]
    even = (tokens > 0).multiply(1 / np.diff(tokens.indptr)[:, None]).mean(0)
    np.testing.assert_allclose(
        result.varm["gene_attention"]["CD49d+"], np.asarray(even).ravel(), rtol=0.05, atol=1e-5
    )


def test_bad_input_is_refused(trained):
    adata, _, classifier = trained
    new = adata.copy()
    with unchanged(new), pytest.raises(KeyError, match=r"'nothing' is not in adata\.obs"):
        sc_cll.tl.gene_attention(new, classifier, groupby="nothing")
    new.obs["empty"] = np.nan
    with unchanged(new), pytest.raises(ValueError, match=r"missing for all \d+ cells"):
        sc_cll.tl.gene_attention(new, classifier, groupby="empty")
    with unchanged(new), pytest.raises(TypeError, match="Expected a model"):
        sc_cll.tl.gene_attention(new, "a model")
