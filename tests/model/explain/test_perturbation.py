"""Cells without a set of genes, or with nothing else, in every way of choosing tokens; and
classifiers that forget.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scbert_cll.model import ScBERTClassifier
from scbert_cll.model.explain import perturbation

SETS = {
    "up": [f"G{i}" for i in range(10)],
    "one": ["G12"],
    "nearly_all": [f"G{i}" for i in range(3, 60)],
}
NETWORKS = {
    "expressed": {},
    "background": {"tokens": "background", "n_background": 8},
    "all": {"tokens": "all"},
    "scbert": {"tokens": "all", "end_token": True, "head": "scbert", "n_layers": 2},
}


@pytest.fixture(scope="module", params=NETWORKS)
def trained(request, _cells, classify) -> ScBERTClassifier:
    adata = _cells.copy()
    adata.obs["label"] = pd.Categorical(
        adata.obs["label"].astype(str).where(np.arange(120) % 5 > 0, "c")
    )
    network = NETWORKS[request.param] | {"dropout": 0.0}
    return classify(adata, network=network, combine="average", weight_decay=0.0)


def _changed(adata, genes, *, keep):
    tokens = adata.layers["binned"].toarray()
    tokens[:, adata.var_names.isin(genes) != keep] = 0
    changed = adata.copy()
    changed.layers["binned"] = sparse.csr_matrix(tokens)
    return changed, tokens.any(axis=1)


def _contrast(model, adata) -> np.ndarray:
    """Of log-probabilities, which is that of the logits."""
    log = np.log(model.predict_parts(adata).network.astype(np.float64))
    return (log["b"] - log.drop(columns="b").mean(axis=1)).to_numpy()


@pytest.mark.parametrize("keep", [False, True])
def test_an_effect_is_the_change_of_the_networks_logit(trained, adata, keep) -> None:
    found = trained.get_set_effects(SETS, adata, keep=keep, target="b", batch_size=7)
    assert list(found.columns) == list(SETS)
    assert (found.index == adata.obs_names).all()
    expressed = trained.config.tokens == "expressed"
    for name, genes in SETS.items():
        changed, left = _changed(adata, genes, keep=keep)
        can = left if trained.config.tokens != "all" else np.ones(len(left), bool)
        expected = _contrast(trained, changed[can].copy()) - _contrast(trained, adata[can].copy())
        np.testing.assert_allclose(found.loc[can, name], expected, atol=3e-5, err_msg=name)
        assert found.loc[~can, name].isna().all() == expressed or not (~can).any()
    assert found.abs().max().max() > 0.01


def test_a_cell_of_which_nothing_would_be_left_has_no_effect(classifier, adata) -> None:
    found = classifier.get_set_effects(
        {"all": list(adata.var_names), "none_of_them": ["G12"]}, adata, keep=True
    )
    assert (found["all"] == 0).all()
    lacks = ~(adata[:, "G12"].layers["binned"].toarray().ravel() > 0)
    assert 0 < lacks.sum() < len(lacks)
    assert (found["none_of_them"].isna() == lacks).all()
    assert classifier.get_set_effects({"all": list(adata.var_names)}, adata)["all"].isna().all()


def test_portions_do_not_matter_and_nothing_changes_where_no_gene_is_expressed(
    classifier, adata, monkeypatch
) -> None:
    one = classifier.get_set_effects(SETS, adata)
    monkeypatch.setattr(perturbation, "_AT_A_TIME", 200)
    pd.testing.assert_frame_equal(
        classifier.get_set_effects(SETS, adata[::-1, ::-1].copy())[::-1], one, atol=2e-6
    )
    lacks = adata[:, "G12"].layers["binned"].toarray().ravel() == 0
    assert (one.loc[lacks, "one"] == 0).all()
    assert classifier.get_set_effects({}, adata).shape == (adata.n_obs, 0)


def test_names_that_are_not_known(classifier, adata) -> None:
    with pytest.raises(KeyError, match="NOGENE"):
        classifier.get_set_effects({"up": ["NOGENE"]}, adata)
    with pytest.raises(ValueError, match="target must be one of 'a', 'b'; found 'c'"):
        classifier.get_set_effects(SETS, adata, target="c")


# -- weights drawn anew
# -----------------------------------------------------------------------------------------------


def test_everything_drawn_anew_is_like_a_network_before_training_but_not_the_one_it_was(
    classify, adata
) -> None:
    model = classify(adata, network={"rng": 5})
    weights = {name: value.clone() for name, value in model.module.state_dict().items()}
    fresh = ScBERTClassifier(
        adata, rng=5, n_hidden=16, n_heads=2, gene_embedding="learned"
    ).module.state_dict()
    anew = model.randomized("all", rng=5).module.state_dict()
    for name, before in fresh.items():
        if (
            before.numel() > 1 and before.float().std() > 0
        ):  # drawn, of the same distribution; batch and layer norms start from constants
            assert (anew[name] != before).all()
            assert 0.5 < anew[name].std() / before.std() < 2 or before.numel() < 10
        else:
            assert (anew[name] == before).all()
    assert all((model.module.state_dict()[name] == value).all() for name, value in weights.items())


@pytest.mark.parametrize(
    ("part", "prefixes"), [("head", ["head."]), ("blocks", ["head.", "blocks.", "norm."])]
)
def test_only_the_part_is_drawn_anew(classifier, new_cells, part, prefixes, answers, same) -> None:
    before = answers(classifier, new_cells)
    other = classifier.randomized(part, rng=1)
    old, new = classifier.module.state_dict(), other.module.state_dict()
    kept = {name for name in old if not name.startswith(tuple(prefixes))}
    assert all((old[name] == new[name]).all() for name in kept)
    assert all((old[f"{p}weight"] != new[f"{p}weight"]).any() for p in ("head.classify.",))
    assert (old["blocks.0.attention.qkv.weight"] != new["blocks.0.attention.qkv.weight"]).any() == (
        part == "blocks"
    )
    same(answers(classifier, new_cells), before, atol=0)
    assert np.abs(answers(other, new_cells)["probabilities"] - before["probabilities"]).max() > 0.01
    same(answers(classifier.randomized(part, rng=1), new_cells), answers(other, new_cells), atol=0)


def test_a_randomised_copy_of_a_loaded_model_works_and_gene_vectors_that_are_not_trained_stay(
    classify, adata, new_cells, tmp_path
) -> None:
    model = classify(
        adata, setup={"exclude_genes": ["G3"]}, network={"train_gene_embedding": False}
    )
    model.save(tmp_path / "model")
    other = ScBERTClassifier.load(tmp_path / "model", accelerator="cpu").randomized("all")
    assert list(other.genes) == list(model.genes)
    assert (other.module.gene_embedding.weight == model.module.gene_embedding.weight).all()
    assert (other.module.token_embedding.weight != model.module.token_embedding.weight).any()
    assert other.predict(new_cells).isin(["a", "b"]).all()
    with pytest.raises(ValueError, match="part must be one of 'head', 'blocks', 'all'"):
        model.randomized("heads")
