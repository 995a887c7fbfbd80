from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scbert_cll as sc_cll
from scbert_cll._gene_names.table import shipped
from tests._make import unchanged


def test_it_reads_no_labels_and_gives_what_finetune_gave(trained):
    adata, _, classifier = trained
    new = adata.copy()
    for column in ("cd49d", "cd49d_level", "cd49d_score", "split", "scbert_pred", "scbert_score"):
        del new.obs[column]
    sc_cll.tl.predict(new, classifier)
    np.testing.assert_array_equal(new.obsm["scbert_proba"], adata.obsm["scbert_proba"])
    np.testing.assert_array_equal(new.obsm["linear_proba"], adata.obsm["linear_proba"])
    np.testing.assert_array_equal(new.obsm["X_scbert"], adata.obsm["X_scbert"])


def test_the_logistic_regression_is_shown_beside(trained):
    adata, _, classifier = trained
    result = sc_cll.tl.predict(adata, classifier, copy=True)
    proba = result.obsm["linear_proba"]
    assert list(proba.columns) == classifier.classes
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-6)
    assert not np.allclose(proba, result.obsm["scbert_proba"])
    tokens = adata[:, classifier.genes].layers["binned"]
    linear = classifier.linear_
    logits = (
        tokens @ (linear.coefficients[1] - linear.coefficients[0])
        + linear.intercept[1]
        - linear.intercept[0]
    )
    np.testing.assert_allclose(proba["CD49d+"], 1 / (1 + np.exp(-logits)), atol=1e-6)


def test_gene_order_does_not_matter(trained):
    adata, _, classifier = trained
    backwards = adata[:, ::-1].copy()
    sc_cll.tl.predict(backwards, classifier)
    np.testing.assert_array_equal(backwards.obsm["scbert_proba"], adata.obsm["scbert_proba"])


def test_cells_under_other_names_get_the_same(trained):
    """Aligned without arguments, cells under Ensembl ids are answered as under symbols."""
    adata, _, classifier = trained
    known = shipped().approved
    ids = {known[name]: name for name in known if name.startswith("ENSG")}
    names = [ids.get(known.get(gene, gene), gene) for gene in adata.var_names]
    assert sum(name.startswith("ENSG") for name in names) > 20
    new = AnnData(adata.X.copy(), obs=adata.obs[[]], var=pd.DataFrame(index=names))
    aligned = sc_cll.pp.align_genes(new, list(classifier.genes))
    sc_cll.pp.bin_expression(aligned, edges=classifier.binning)
    sc_cll.tl.predict(aligned, classifier)
    np.testing.assert_array_equal(aligned.obsm["scbert_proba"], adata.obsm["scbert_proba"])


@pytest.mark.parametrize("batch_size", [1, 7, 10_000])
def test_batch_size_order_and_companions_do_not_matter(trained, batch_size):
    adata, _, classifier = trained
    some = adata[adata.obs_names[[30, 4, 100, 77, 2, 51]]].copy()
    sc_cll.tl.predict(some, classifier, batch_size=batch_size)
    expected = adata.obsm["scbert_proba"].loc[some.obs_names]
    np.testing.assert_allclose(some.obsm["scbert_proba"], expected, atol=1e-6, rtol=0)


def test_copy_leaves_the_original(trained):
    adata, _, classifier = trained
    new = adata.copy()
    del new.obs["scbert_pred"]
    with unchanged(new):
        result = sc_cll.tl.predict(new, classifier, copy=True)
    assert "scbert_pred" in result.obs


def test_unsure_cells_are_unassigned_when_asked(trained):
    adata, _, classifier = trained
    result = sc_cll.tl.predict(adata, classifier, unassigned_below=0.8, copy=True)
    unsure = result.obs["scbert_score"] < 0.8
    assert 0 < unsure.sum() < adata.n_obs
    assert ((result.obs["scbert_pred"] == "unassigned") == unsure).all()


def test_new_counts_of_other_genes_come_by_align_and_bin(trained):
    adata, _, classifier = trained
    raw = AnnData(adata.X, adata.obs[["donor"]], adata.var[[]])[:, ::-1]
    raw = raw[:, raw.var_names != adata.var_names[3]].copy()
    aligned = sc_cll.pp.align_genes(raw, list(classifier.genes))
    sc_cll.pp.bin_expression(aligned, edges=classifier.binning)
    sc_cll.tl.predict(aligned, classifier)
    same = aligned.obs["scbert_pred"].astype(str) == adata.obs["scbert_pred"].astype(str)
    assert same.mean() > 0.95  # one gene less


def changed(adata, **uns):
    adata.uns["binned"]["params"] |= uns


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (
            lambda a: a.layers.pop("binned"),
            KeyError,
            "'binned' is not in adata.layers.*Bin the counts first",
        ),
        (
            lambda a: changed(a, method="quantile"),
            ValueError,
            "method is 'quantile', the model has 'log2'",
        ),
        (
            lambda a: changed(a, target_sum=1e6),
            ValueError,
            "target_sum is 1000000.0, the model has 10000.0",
        ),
        (lambda a: a.uns.pop("binned"), ValueError, "does not say how adata.layers"),
        (
            lambda a: setattr(a, "var_names", [f"m{g}" for g in a.var_names]),
            ValueError,
            "0 of the model's 250 genes are in adata, expected at least 50%.*pp.align_genes",
        ),
    ],
)
def test_other_data_than_the_models_are_refused(trained, change, error, match):
    adata, _, classifier = trained
    new = adata.copy()
    change(new)
    with unchanged(new), pytest.raises(error, match=match):
        sc_cll.tl.predict(new, classifier)


def test_it_wants_a_trained_classifier(trained):
    adata, pretrained, _ = trained
    with pytest.raises(TypeError, match=r"Expected a model \('ScBERTClassifier'\), found ScBERT"):
        sc_cll.tl.predict(adata, pretrained)
    with pytest.raises(ValueError, match="unassigned_below must be a number from 0 to 1"):
        sc_cll.tl.predict(adata, trained[2], unassigned_below=2)
    untrained = sc_cll.ScBERTClassifier.from_pretrained(pretrained, adata, labels_key="cd49d")
    with pytest.raises(RuntimeError, match="has not been trained"):
        sc_cll.tl.predict(adata, untrained)


def test_two_models_stand_side_by_side(trained, tmp_path):
    adata, pretrained, classifier = trained
    both = adata.copy()
    other = sc_cll.tl.finetune(
        both,
        pretrained,
        max_epochs=1,
        accelerator="cpu",
        rng=1,
        key_added="other",
        enable_progress_bar=False,
    )
    sc_cll.tl.predict(both, classifier, key_added="third", unassigned_below=0.6)
    for slot in ("obs", "obsm"):
        was, now = getattr(adata, slot), getattr(both, slot)
        assert {"scbert_pred", "scbert_proba"} & set(was)
        for name in was:
            pd.testing.assert_frame_equal(pd.DataFrame(now[name]), pd.DataFrame(was[name]))
    assert {"scbert", "scbert_pretrain"} <= set(both.uns)
    written = tmp_path / "both.h5ad"
    both.write_h5ad(written)
    read = ad.read_h5ad(written)
    for key, model in (("other", other), ("third", classifier)):
        table = sc_cll.get.predictions(read, pred_key=f"{key}_pred")
        proba = model.predict(both, soft=True)
        np.testing.assert_allclose(table["score"], proba.max(axis=1), rtol=1e-6)
        np.testing.assert_allclose(table["proba_CD49d+"], proba["CD49d+"], rtol=1e-6)
        assert read.obsm[f"X_{key}"].shape == (both.n_obs, model.config.n_hidden)
        assert list(read.obsm[f"{key}_linear_proba"]) == model.classes
    assert read.uns["other"]["params"]["rng"] == 1
    assert read.uns["third_predict"]["params"]["unassigned_below"] == 0.6
    assert (read.obs["third_pred"].astype(str) == "unassigned").any()
    assert not np.allclose(read.obsm["other_proba"], read.obsm["scbert_proba"])


@pytest.mark.parametrize(
    ("key", "named"), [("a/b", "a/b"), ("", "''"), ("binned", "'binned'"), (1, "1")]
)
def test_a_name_that_cannot_be_is_refused(trained, key, named):
    adata, _, classifier = trained
    with unchanged(adata), pytest.raises(ValueError, match=rf"key_added=.*{named}"):
        sc_cll.tl.predict(adata, classifier, key_added=key)
