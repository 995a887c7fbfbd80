from __future__ import annotations

import numpy as np
import pytest

import scbert_cll as sc_cll
from tests._make import unchanged

FAST = {"max_epochs": 1, "batch_size": 64, "accelerator": "cpu", "enable_progress_bar": False}


def test_it_learns_more_than_the_commonest_bin(trained):
    _, pretrained, _ = trained
    history = pretrained.history
    assert history["train_loss"].iloc[-1, 0] < history["train_loss"].iloc[0, 0]
    assert (
        history["masked_accuracy_validation"].iloc[-1, 0]
        > history["majority_accuracy_validation"].iloc[-1, 0]
    )


def test_it_embeds_every_cell_and_records_how(prepared):
    adata = prepared.copy()
    model = sc_cll.tl.pretrain(adata, **FAST, network={"n_hidden": 16})
    assert adata.obsm["X_scbert"].shape == (adata.n_obs, 16)
    assert adata.obsm["X_scbert"].dtype == np.float32
    np.testing.assert_array_equal(adata.obsm["X_scbert"], model.get_latent_representation())
    assert adata.uns["scbert_pretrain"]["network"]["n_hidden"] == 16
    assert (
        adata.uns["scbert_pretrain"]["params"].items()
        >= {"split_key": "split", "layer": "binned", "rng": 0}.items()
    )
    assert len(adata.uns["scbert_pretrain"]["history"]["train_loss"]) == 1


def test_excluded_genes_are_not_seen(prepared):
    adata = prepared.copy()
    model = sc_cll.tl.pretrain(adata, **FAST, exclude_genes=["ITGA4"])
    assert "ITGA4" not in model.genes
    assert len(model.genes) == adata.n_vars - 1
    changed = adata.copy()
    layer = changed.layers["binned"].tolil()
    layer[:, changed.var_names.get_loc("ITGA4")] = 5
    changed.layers["binned"] = layer.tocsr()
    np.testing.assert_array_equal(
        model.get_latent_representation(changed), model.get_latent_representation()
    )


def test_without_a_split_a_tenth_validates(prepared):
    adata = prepared.copy()
    del adata.obs["split"]
    model = sc_cll.tl.pretrain(adata, **FAST)
    assert len(model.validation_indices) == round(adata.n_obs / 10)


def test_without_gene_vectors_it_says_what_to_do_and_leaves_nothing_behind(prepared):
    adata = prepared.copy()
    del adata.varm["gene2vec"]
    with (
        unchanged(adata),
        pytest.raises(KeyError, match=r"gene2vec.* is not in adata.varm.*tl.gene2vec"),
    ):
        sc_cll.tl.pretrain(adata, **FAST)
    sc_cll.tl.pretrain(adata, **FAST, gene_embedding="learned")


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"layer": "nothing"}, KeyError, r"'nothing' is not in adata.layers.*pp.bin_expression"),
        ({"exclude_genes": ["NOGENE"]}, KeyError, "'NOGENE' not in adata.var_names"),
        ({"preset": "huge"}, ValueError, "preset must be one of 'small', 'scbert'"),
        ({"network": {"depth": 3}}, TypeError, "The network has no argument 'depth'"),
    ],
)
def test_bad_input_is_refused(prepared, kwargs, error, match):
    adata = prepared.copy()
    with unchanged(adata), pytest.raises(error, match=match):
        sc_cll.tl.pretrain(adata, **FAST | kwargs)


def test_views_and_backed_objects_are_refused(prepared, tmp_path):
    import anndata as ad

    with pytest.raises(ValueError, match="is a view of another AnnData"):
        sc_cll.tl.pretrain(prepared[:50], **FAST)
    prepared.write_h5ad(tmp_path / "x.h5ad")
    backed = ad.read_h5ad(tmp_path / "x.h5ad", backed="r")
    with pytest.raises(ValueError, match="read it into memory first"):
        sc_cll.tl.pretrain(backed, **FAST)
    backed.file.close()
