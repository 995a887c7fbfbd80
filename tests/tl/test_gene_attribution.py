"""tl.gene_attribution finds what a network has learned, and says when it has learned nothing."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scbert_cll as sb
from tests._make import unchanged
from tests.tl._taught import taught


def test_planted_genes_speak_for_their_class(learned) -> None:
    adata, model = learned
    sb.tl.gene_attribution(adata, model, groupby="label", donor_key="donor")
    assert adata.uns["gene_attribution"]["auroc_within"] > 0.9
    truth = adata.var["truth"]
    signed = adata.varm["gene_attribution"].mean(axis=1)
    first = signed.abs().nlargest(12).index
    assert (truth[first] != 0).mean() >= 0.8
    assert (np.sign(signed[first])[truth[first] != 0] == truth[first][truth[first] != 0]).all()


def test_groups_are_means_over_the_cells_of_their_donors(learned) -> None:
    adata, model = learned
    sb.tl.gene_attribution(adata, model, groupby="label", donor_key="donor")
    alone = sb.tl.gene_attribution(adata, model, groupby="label", donor_key=None, copy=True)
    pd.testing.assert_frame_equal(
        adata.varm["gene_attribution"], alone.varm["gene_attribution"], rtol=1e-4, atol=1e-7
    )
    assert set(adata.varm["gene_attribution_donors"]) == {
        f"{d}|{g}" for d, g in zip(adata.obs["donor"], adata.obs["label"], strict=True)
    }


def test_attention_goes_through_the_same_door(learned) -> None:
    adata, model = learned
    sb.tl.gene_attention(adata, model, groupby="label")
    sb.tl.gene_attribution(adata, model, method="attention", groupby="label")
    pd.testing.assert_frame_equal(adata.varm["gene_attribution"], adata.varm["gene_attention"])
    sb.tl.gene_attribution(adata, model, method="rollout", groupby="label")
    np.testing.assert_allclose(adata.varm["gene_attribution"].sum(), 1, rtol=1e-4)


def test_the_gate_gradient_says_what_leaving_a_token_out_does(learned) -> None:
    adata, model = learned
    some = adata[::8].copy()
    sb.tl.gene_attribution(some, model, groupby="label", key_added="gate")
    sb.tl.gene_attribution(
        some, model, method="occlusion", n_cells=None, groupby="label", key_added="drop"
    )
    for group in ("negative", "positive"):
        assert np.corrcoef(some.varm["gate"][group], some.varm["drop"][group])[0, 1] > 0.9


@pytest.mark.parametrize("part", ["blocks", "all"])
def test_an_attribution_does_not_survive_without_what_was_learned(learned, part) -> None:
    adata, model = learned
    sb.tl.gene_attribution(adata, model, groupby="label", key_added="trained")
    sb.tl.gene_attribution(
        adata, model.randomized(part), groupby="label", split_key="none", key_added="random"
    )
    both = [adata.varm[name].mean(axis=1).abs() for name in ("trained", "random")]
    assert both[0].corr(both[1], method="spearman") < 0.5
    planted = (adata.var["truth"] != 0).to_numpy()
    assert planted[both[0].argsort()[-12:]].mean() >= 0.8
    assert planted[both[1].argsort()[-12:]].mean() < 0.6


def test_occlusion_of_some_genes_leaves_the_others_missing(learned) -> None:
    adata, model = learned
    genes = list(adata.var_names[adata.var["truth"] != 0][:4])
    sb.tl.gene_attribution(
        adata, model, method="occlusion", genes=genes, groupby="label", donor_key="donor", n_cells=5
    )
    found = adata.varm["gene_attribution"]
    assert found.loc[genes].notna().all(axis=None)
    assert found.drop(genes).isna().all(axis=None)
    assert (np.sign(found.loc[genes].mean(axis=1)) == adata.var["truth"][genes]).all()
    assert adata.uns["gene_attribution"]["params"]["n_cells"] == 5
    by_donor = adata.varm["gene_attribution_donors"].loc[genes]
    positive = [c for c in by_donor if c.endswith("|positive")]
    n = [
        ((adata.obs["donor"] == c.split("|")[0]) & (adata.obs["label"] == "positive")).sum()
        for c in positive
    ]
    np.testing.assert_allclose(
        found.loc[genes, "positive"], np.average(by_donor[positive], axis=1, weights=n)
    )


def test_sets_are_dropped_together(learned, tmp_path) -> None:
    adata, model = learned
    truth = adata.var["truth"]
    sets = {
        name: list(truth.index[truth == code][:6])
        for name, code in (("up", 1), ("down", -1), ("neither", 0))
    }
    sb.tl.gene_attribution(
        adata,
        model,
        method="group_occlusion",
        gene_sets=sets,
        groupby="label",
        donor_key="donor",
        n_cells=4,
    )
    assert "gene_attribution" not in adata.varm
    adata.write_h5ad(tmp_path / "a.h5ad")
    found = ad.read_h5ad(tmp_path / "a.h5ad").uns["gene_attribution_sets"]
    assert (found["effects"].loc["up"] > found["effects"].loc["neither"].abs()).all()
    assert (found["effects"].loc["down"] < -found["effects"].loc["neither"].abs()).all()
    donor, group = adata.obs["donor"].iloc[0], adata.obs["label"].iloc[0]
    own = adata[(adata.obs["donor"] == donor) & (adata.obs["label"] == group)].copy()
    some = own[np.unique(np.linspace(0, own.n_obs - 1, 4).astype(int))].copy()
    expected = -model.get_set_effects(sets, some).mean()
    np.testing.assert_allclose(found["donors"][f"{donor}|{group}"], expected, atol=1e-5)


def test_a_difference_in_attention_is_that_within_the_donor(learned) -> None:
    adata, model = learned
    adata.obs["label"] = adata.obs["label"].where(
        (adata.obs["donor"] != "D01") | (adata.obs["label"] == "positive")
    )
    sb.tl.gene_attribution(
        adata, model, method="attention", groupby="label", donor_key="donor", key_added="a"
    )
    sb.tl.gene_attribution(
        adata, model, method="attention_difference", groupby="label", donor_key="donor"
    )
    found, itself = adata.varm["gene_attribution"], adata.varm["a"]
    np.testing.assert_allclose(found["positive"], itself["positive"] - itself["negative"])
    donors, of_donors = adata.varm["gene_attribution_donors"], adata.varm["a_donors"]
    np.testing.assert_allclose(
        donors["D02|negative"], of_donors["D02|negative"] - of_donors["D02|positive"]
    )
    assert donors["D01|positive"].isna().all()
    assert list(donors) == list(of_donors)
    of_three = adata[adata.obs["label"].notna()].copy()
    sb.tl.gene_attribution(of_three, model, method="attention_difference", groupby="donor")
    np.testing.assert_allclose(of_three.varm["gene_attribution"].sum(axis=1), 0, atol=1e-12)


def test_donors_are_known_by_default_and_one_donor_is_said_on_purpose(learned) -> None:
    adata, model = learned
    asked = {"method": "attention", "groupby": "label", "split_key": "none"}
    by_donor = sb.tl.gene_attribution(adata, model, **asked, copy=True)
    one = sb.tl.gene_attribution(adata, model, **asked, donor_key=None, copy=True)
    assert next(iter(by_donor.varm["gene_attribution_donors"])) == "D01|negative"
    assert "gene_attribution_donors" not in one.varm
    np.testing.assert_allclose(by_donor.varm["gene_attribution"], one.varm["gene_attribution"])
    del adata.obs["donor"]
    with pytest.warns(FutureWarning, match="no column 'donor'.* donor_key=None for one donor"):
        sb.tl.gene_attribution(adata, model, **asked)
    assert adata.uns["gene_attribution"]["params"]["donor_key"] == "none"
    np.testing.assert_array_equal(adata.varm["gene_attribution"], one.varm["gene_attribution"])


def test_layers_and_heads_are_kept_and_shown_to_follow_abundance(learned, tmp_path) -> None:
    adata, model = learned
    sb.tl.gene_attribution(adata, model, method="attention", per_layer=True, groupby="label")
    layers, record = adata.varm["gene_attribution_layers"], adata.uns["gene_attribution"]
    assert set(layers) == {
        f"{group}|0|{head}" for group in ("negative", "positive") for head in range(4)
    }
    np.testing.assert_allclose(layers.sum(), 1)
    np.testing.assert_allclose(
        layers.filter(like="positive|").mean(axis=1), adata.varm["gene_attribution"]["positive"]
    )
    table = record["layers"].set_index(["group", "layer", "head"])["abundance"]
    own = adata[adata.obs["label"] == "positive"].layers["binned"].toarray().sum(axis=0)
    expected = pd.Series(own[own > 0]).corr(
        pd.Series(layers["positive|0|2"].to_numpy()[own > 0]), method="spearman"
    )
    assert table["positive", 0, "2"] == pytest.approx(expected)
    assert table["positive", 0, "mean"] > 0.8
    assert record["attention_floor"].shape == (1,)
    adata.write_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_frame_equal(
        ad.read_h5ad(tmp_path / "a.h5ad").uns["gene_attribution"]["layers"],
        record["layers"],
        check_index_type=False,  # text is text, of whatever type
        check_dtype=False,
    )


def test_genes_the_model_does_not_know_have_zero(learned) -> None:
    adata, model = learned
    wider = ad.concat(
        [adata, ad.AnnData(np.zeros((adata.n_obs, 1)), adata.obs, pd.DataFrame(index=["OTHER"]))],
        axis=1,
    )
    wider.obs, wider.uns = adata.obs, {"binned": adata.uns["binned"]}
    wider.layers["binned"] = sparse.hstack(
        [adata.layers["binned"], sparse.csr_matrix((adata.n_obs, 1), dtype="uint8")]
    )
    wider.layers["binned"] = wider.layers["binned"].tocsr()
    for kwargs in ({}, {"method": "occlusion", "genes": ["ITGA4"], "n_cells": 2}):
        sb.tl.gene_attribution(wider, model, groupby="label", **kwargs)
        assert (wider.varm["gene_attribution"].loc["OTHER"] == 0).all()


def test_a_network_trained_on_permuted_labels_is_told() -> None:
    adata = sb.datasets.planted_donors(n_cells=80, n_genes=100, n_planted=18, rng=0)
    rng = np.random.default_rng(0)
    by_donor = adata.obs.groupby("donor", observed=True)["label"]
    adata.obs["label"] = by_donor.transform(lambda label: rng.permutation(label)).astype(
        adata.obs["label"].dtype
    )
    model = taught(
        adata, 4, fractions=(0.4, 0.1, 0.5)
    )  # enough test cells for an AUROC that is not chance
    with pytest.warns(UserWarning, match="there is little to attribute"):
        sb.tl.gene_attribution(adata, model, method="attention", groupby="label", donor_key="donor")
    assert adata.uns["gene_attribution"]["auroc_within"] < 0.6
    assert "gene_attribution" in adata.varm


def test_a_network_that_has_learned_nothing_is_told() -> None:
    adata = sb.datasets.planted_donors(effect="none", n_cells=80, n_genes=100, rng=0)
    model = taught(adata, 1)
    with pytest.warns(UserWarning, match="there is little to attribute"):
        sb.tl.gene_attribution(adata, model, groupby="label", donor_key="donor")
    assert adata.uns["gene_attribution"]["auroc_within"] < 0.6


def test_bad_input(learned) -> None:
    adata, model = learned
    with unchanged(adata):
        with pytest.raises(ValueError, match="method must be one of"):
            sb.tl.gene_attribution(adata, model, method="shap", groupby="label")
        with pytest.raises(
            ValueError, match='gene_sets= and method="group_occlusion" belong together'
        ):
            sb.tl.gene_attribution(adata, model, method="group_occlusion", groupby="label")
        with pytest.raises(
            ValueError, match='gene_sets= and method="group_occlusion" belong together'
        ):
            sb.tl.gene_attribution(adata, model, gene_sets={"a": ["ITGA4"]}, groupby="label")
        with pytest.raises(ValueError, match='genes= restricts method="occlusion"'):
            sb.tl.gene_attribution(adata, model, genes=["ITGA4"], groupby="label")
        with pytest.raises(
            ValueError,
            match="per_layer=True keeps the layers of 'attention', 'attention_difference'",
        ):
            sb.tl.gene_attribution(adata, model, per_layer=True, groupby="label")
        adata.obs["one"] = "all"
        with pytest.raises(ValueError, match=r"A difference needs two groups; all cells are 'all'"):
            sb.tl.gene_attribution(adata, model, method="attention_difference", groupby="one")
        del adata.obs["one"]
        with pytest.raises(ValueError, match="has never seen one"):
            sb.tl.gene_attribution(adata, model, method="integrated_gradients", groupby="label")


def test_size_is_the_mean_absolute_value_in_expressing_cells(learned) -> None:
    adata, model = learned
    sb.tl.gene_attribution(adata, model, groupby="label", donor_key="donor")
    cells = pd.Series(pd.Categorical(adata.obs_names, adata.obs_names), adata.obs_names)
    single = (
        model.get_gene_attribution(cells, adata).values.loc[adata.var_names].to_numpy().T
    )  # cells × genes
    expressed = adata.layers["binned"].toarray() > 0
    for group, found in adata.varm["gene_attribution_size"].items():
        own = (adata.obs["label"] == group).to_numpy()
        n = expressed[own].sum(0)
        np.testing.assert_allclose(
            found, np.abs(single[own]).sum(0) / np.maximum(n, 1), rtol=1e-3, atol=1e-6
        )
    alone = sb.tl.gene_attribution(adata, model, groupby="label", donor_key=None, copy=True)
    pd.testing.assert_frame_equal(
        alone.varm["gene_attribution_size"],
        adata.varm["gene_attribution_size"],
        rtol=1e-4,
        atol=1e-7,
        check_names=False,
    )
