"""Attribution per group through the classifier: means over cells, by name, whatever the batches."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import scbert_cll as sb
from scbert_cll.model import ScBERTClassifier
from scbert_cll.model.explain import perturbation


@pytest.fixture(scope="module")
def toy():
    adata = sb.datasets.cll_toy(n_cells=240, n_genes=220)["rna"].copy()
    sb.pp.bin_expression(adata)
    return adata


NETWORKS = {
    "expressed": {},
    "background": {"tokens": "background", "n_background": 40},
    "all": {"tokens": "all"},
    "scbert": {"tokens": "all", "end_token": True, "head": "scbert"},
}


@pytest.fixture(scope="module", params=NETWORKS)
def trained(request, toy):
    ScBERTClassifier.setup_anndata(toy, labels_key="cd49d_true")
    model = ScBERTClassifier(toy, rng=0, gene_embedding="learned", **NETWORKS[request.param])
    model.train(2, accelerator="cpu", enable_progress_bar=False)
    return model


def test_a_group_is_the_mean_over_its_cells(trained, toy):
    groups = toy.obs["cd49d_true"].copy()
    groups.iloc[:20] = np.nan
    found = trained.get_gene_attribution(groups, batch_size=7).values
    single = trained.get_gene_attribution(pd.Series(toy.obs_names, toy.obs_names)).values[
        list(toy.obs_names)
    ]
    assert list(found.columns) == ["CD49d-", "CD49d+"]
    for name in found:
        own = toy.obs_names[(groups == name).to_numpy()]
        np.testing.assert_allclose(found[name], single[own].mean(axis=1), rtol=1e-4, atol=1e-7)
    expressed = (toy.X > 0).toarray().T
    if trained.config.tokens == "expressed":
        assert (single.to_numpy()[~expressed] == 0).all()
    assert np.abs(single.to_numpy()).max() > 0


def test_order_and_other_genes_do_not_matter(trained, toy):
    shuffled = toy[::-1, ::-1].copy()
    one = trained.get_gene_attribution(toy.obs["donor"]).values
    two = trained.get_gene_attribution(shuffled.obs["donor"], shuffled).values
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-7)


def test_the_two_classes_of_two_are_opposite(trained, toy):
    for_, against = (
        trained.get_gene_attribution(toy.obs["donor"], target=target).values
        for target in ("CD49d+", "CD49d-")
    )
    np.testing.assert_allclose(for_, -against, rtol=1e-4, atol=1e-7)


def test_integrated_gradients_say_how_far_they_are_off_or_are_refused(trained, toy):
    few = toy[::4].copy()
    if trained.config.tokens == "expressed":
        with pytest.raises(ValueError, match="has never seen one"):
            trained.get_gene_attribution(few.obs["donor"], few, method="integrated_gradients")
        return
    found = trained.get_gene_attribution(
        few.obs["donor"], few, method="integrated_gradients", n_steps=16
    )
    assert found.error.shape == (few.n_obs,)
    assert np.abs(found.error).max() < 0.05


def test_a_perturbation_is_the_prediction_of_the_changed_cells(trained, toy):
    genes = list(trained.genes[:3])
    for level in (0, 4):
        (change,) = trained.perturb_genes({"some": genes}, toy, level=level, batch_size=9)
        changed = toy.copy()
        tokens = changed.layers["binned"].toarray()
        before = tokens.copy()
        tokens[:, changed.var_names.get_indexer(genes)] = level
        changed.layers["binned"] = type(changed.layers["binned"])(tokens)
        odds = [
            np.log(p / (1 - p))
            for p in (trained.predict(c, soft=True)["CD49d+"] for c in (changed, toy))
        ]
        np.testing.assert_array_equal(change.rows, np.flatnonzero((tokens != before).any(1)))
        np.testing.assert_allclose(
            change.log_odds, (odds[0] - odds[1]).to_numpy()[change.rows], atol=2e-3
        )
        latent = [trained.get_latent_representation(c)[change.rows] for c in (changed, toy)]
        np.testing.assert_allclose(
            change.shift, np.linalg.norm(latent[0] - latent[1], axis=1), atol=1e-4
        )


def test_occlusion_is_the_mean_effect_of_a_gene_alone(trained, toy):
    groups = toy.obs["cd49d_true"].copy()
    groups.iloc[:20] = np.nan
    genes = list(trained.genes[:3])
    found = trained.get_gene_occlusion(groups, genes=genes, batch_size=50)
    effects = -trained.get_set_effects({gene: [gene] for gene in genes}, toy).fillna(0.0)
    expected = effects.groupby(groups.to_numpy(), observed=True).mean().T
    np.testing.assert_allclose(found.loc[genes], expected.loc[genes, list(found)], atol=1e-5)
    assert found.abs().to_numpy().max() > 0
    assert list(found.index) == genes


def test_occlusion_looks_at_some_cells_of_each_group(trained, toy):
    """One cell of each group: the values are those of that cell alone, and all genes are there."""
    found = trained.get_gene_occlusion(toy.obs["cd49d_true"], toy, n_cells=1)
    assert list(found.index) == list(trained.genes)
    first = toy[[np.flatnonzero(toy.obs["cd49d_true"] == name)[0] for name in found]].copy()
    alone = trained.get_gene_occlusion(pd.Series(list(found)), first)
    np.testing.assert_allclose(found, alone[list(found)], atol=1e-5)
    expressed = (first.X > 0).toarray().T
    assert (found.to_numpy()[~expressed] == 0).all()
    with pytest.raises(KeyError, match="NOGENE"):
        trained.get_gene_occlusion(toy.obs["cd49d_true"], genes=["NOGENE"])


def test_many_changed_cells_are_told(trained, toy, monkeypatch, caplog):
    monkeypatch.setattr(perturbation, "_MANY", 0)
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        trained.get_gene_occlusion(toy.obs["cd49d_true"], genes=["ITGA4"], n_cells=30)
    assert "n_cells= or genes= there are fewer" in caplog.text
