"""tl.gene_attribution and tl.perturb find what a network has learned, and say when it has learned nothing."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scbert_cll as sb
from scbert_cll.model import ScBERTClassifier


def _trained(adata, epochs: int, **kwargs) -> ScBERTClassifier:
    sb.pp.split_donors(adata, "donor", labels_key="label", rng=0)
    sb.pp.bin_expression(adata)
    ScBERTClassifier.setup_anndata(adata, labels_key="label")
    model = ScBERTClassifier(adata, rng=0, gene_embedding="learned", **kwargs)
    model.train(epochs, split_key="split", accelerator="cpu", enable_progress_bar=False)
    return model


@pytest.fixture(scope="session")
def _learned():
    adata = sb.datasets.planted_donors(n_cells=80, n_genes=100, n_planted=18, rng=0)
    return adata, _trained(adata, 12)


@pytest.fixture
def learned(_learned):
    adata, model = _learned
    return adata.copy(), model


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
    alone = sb.tl.gene_attribution(adata, model, groupby="label", copy=True)
    pd.testing.assert_frame_equal(adata.varm["gene_attribution"], alone.varm["gene_attribution"], rtol=1e-4, atol=1e-7)
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


def test_a_network_that_has_learned_nothing_is_told() -> None:
    adata = sb.datasets.planted_donors(effect="none", n_cells=80, n_genes=100, rng=0)
    model = _trained(adata, 1)
    with pytest.warns(UserWarning, match="there is little to attribute"):
        sb.tl.gene_attribution(adata, model, groupby="label", donor_key="donor")
    assert adata.uns["gene_attribution"]["auroc_within"] < 0.6


def test_dropping_planted_genes_turns_the_logit_against_their_sign(learned, tmp_path) -> None:
    adata, model = learned
    truth = adata.var["truth"]
    names = [*truth.index[truth == 1][:4], *truth.index[truth == -1][:4]]
    sb.tl.perturb(adata, model, names)
    summary = adata.uns["perturb"]["summary"].set_index("name")
    assert (np.sign(summary["log_odds"]) == -truth[names]).mean() >= 0.85
    assert (summary["low"] <= summary["log_odds"]).all()
    assert adata.varm["perturb"].loc[names].notna().any(axis=1).all()
    assert adata.varm["perturb"].drop(names).isna().all(axis=None)
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert ad.read_h5ad(tmp_path / "a.h5ad").uns["perturb"]["params"]["kind"] == "drop"


def test_sets_change_together(learned) -> None:
    adata, model = learned
    truth = adata.var["truth"]
    up = list(truth.index[truth == 1])
    sb.tl.perturb(adata, model, {"up": up, "first": up[:1]}, groupby="label")
    summary = adata.uns["perturb"]["summary"].set_index(["group", "name"])["log_odds"]
    assert summary["positive", "up"] < 3 * summary["positive", "first"] < 0


def test_bad_input(learned, unchanged) -> None:
    adata, model = learned
    with unchanged(adata):
        with pytest.raises(KeyError, match="NOGENE"):
            sb.tl.perturb(adata, model, ["NOGENE"])
        with pytest.raises(KeyError, match=r"Run tl\.signature first"):
            sb.tl.perturb(adata, model)
        with pytest.raises(ValueError, match="needs level="):
            sb.tl.perturb(adata, model, ["ITGA4"], kind="set")
        with pytest.raises(ValueError, match="method must be one of"):
            sb.tl.gene_attribution(adata, model, method="shap", groupby="label")
        with pytest.raises(ValueError, match="has never seen one"):
            sb.tl.gene_attribution(adata, model, method="integrated_gradients", groupby="label")
