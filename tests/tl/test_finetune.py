from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score, log_loss, roc_auc_score

import scbert_cll as sc_cll
from tests._make import unchanged

FAST = {"max_epochs": 1, "batch_size": 64, "accelerator": "cpu", "enable_progress_bar": False}


def test_held_out_donors_are_predicted_better_than_by_chance(trained):
    adata, _, _ = trained
    test = (adata.obs["split"] == "test") & adata.obs["cd49d"].notna()
    truth = adata.obs.loc[test, "cd49d"] == "CD49d+"
    assert roc_auc_score(truth, adata.obsm["scbert_proba"].loc[test, "CD49d+"]) > 0.7


def test_slots_agree_with_each_other(trained):
    adata, _, classifier = trained
    proba = adata.obsm["scbert_proba"]
    assert list(proba.columns) == classifier.classes == ["CD49d-", "CD49d+"]
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-6)
    assert (adata.obs["scbert_pred"].astype(str) == proba.idxmax(axis=1)).all()
    np.testing.assert_array_equal(adata.obs["scbert_score"], proba.max(axis=1))
    assert adata.obs["scbert_score"].dtype == np.float32
    assert adata.uns["scbert"]["params"]["weight_key"] == "balance_weight"


def test_joined_is_not_worse_than_the_logistic_regression_by_more_than_noise(trained):
    table = trained[0].uns["scbert"]["comparison"].set_index(["part", "model"])["auroc"]
    assert table["test", "predicted"] > table["test", "logistic regression"] - 0.05


def test_model_none_trains_from_scratch_and_the_same_seed_gives_the_same(prepared):
    results = []
    for seed in (0, 0, 1):
        adata = prepared.copy()
        sc_cll.tl.finetune(adata, **FAST, rng=seed)
        results.append(adata.obsm["scbert_proba"].to_numpy())
    np.testing.assert_array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])


def test_the_comparison_is_of_what_the_object_holds(trained):
    adata, _, classifier = trained
    table = adata.uns["scbert"]["comparison"].set_index(["part", "model"])
    assert adata.uns["scbert"]["linear"] == {
        "combine": "average",
        "strength": classifier.linear_.strength,
    }
    assert list(table.index.levels[0]) == ["test", "val"]
    assert set(table.loc["test"].index) == {"logistic regression", "network", "predicted"}
    held = {"predicted": "scbert_proba", "logistic regression": "linear_proba"}
    network = classifier.predict_parts(adata).network
    for (part, model), row in table.iterrows():
        cells = ((adata.obs["split"] == part) & adata.obs["cd49d"].notna()).to_numpy()
        proba = (adata.obsm[held[model]] if model in held else network)[cells].to_numpy(np.float64)
        proba = proba / proba.sum(axis=1, keepdims=True)
        truth = (adata.obs["cd49d"][cells] == "CD49d+").to_numpy().astype(int)
        assert row["n_cells"] == cells.sum()
        assert row["macro_f1"] == pytest.approx(f1_score(truth, proba.argmax(1), average="macro"))
        assert row["balanced_accuracy"] == pytest.approx(
            balanced_accuracy_score(truth, proba.argmax(1))
        )
        assert row["auroc"] == pytest.approx(roc_auc_score(truth, proba[:, 1]))
        assert row["log_loss"] == pytest.approx(log_loss(truth, proba))


@pytest.mark.parametrize("combine", ["none", "average", "residual"])
def test_how_network_and_logistic_regression_are_joined(prepared, combine):
    adata = prepared.copy()
    classifier = sc_cll.tl.finetune(adata, combine=combine, donor_key="donor", **FAST)
    record = adata.uns["scbert"]
    assert record["params"]["combine"] == record["linear"]["combine"] == combine
    found = classifier.predict_parts(adata)
    pd.testing.assert_frame_equal(adata.obsm["linear_proba"], found.linear)
    joined, network, linear = (table.to_numpy() for table in found[:3])
    np.testing.assert_array_equal(adata.obsm["scbert_proba"], joined)
    product = np.sqrt(network * linear)
    expected = {
        "none": network,
        "average": product / product.sum(axis=1, keepdims=True),
        "residual": network * linear / (network * linear).sum(axis=1, keepdims=True),
    }
    np.testing.assert_allclose(joined, expected[combine], atol=1e-5)


def with_protein(adata):
    """Counts of two proteins, the first one high where the cell is positive."""
    rng = np.random.default_rng(0)
    level = np.where(adata.obs["cd49d"] == "CD49d+", 200, 10)
    adata.obsm["protein"] = pd.DataFrame(
        {"CD49d": rng.poisson(level), "CD19": rng.poisson(40, adata.n_obs)}, index=adata.obs_names
    )
    return adata


def test_proteins_of_training_cells_are_learned_from_and_needed_for_nothing_else(prepared):
    plain, adata, other = (
        prepared.copy(),
        with_protein(prepared.copy()),
        with_protein(prepared.copy()),
    )
    held = (other.obs["split"] == "test").to_numpy()
    other.obsm["protein"].loc[held] = 0
    sc_cll.tl.finetune(plain, **FAST)
    classifier = sc_cll.tl.finetune(adata, protein_key="protein", **FAST)
    sc_cll.tl.finetune(other, protein_key="protein", **FAST)
    assert adata.uns["scbert"]["params"]["protein_key"] == "protein"
    assert not np.array_equal(adata.obsm["scbert_proba"], plain.obsm["scbert_proba"])
    np.testing.assert_array_equal(adata.obsm["linear_proba"], plain.obsm["linear_proba"])
    np.testing.assert_array_equal(
        adata.obsm["scbert_proba"][held], other.obsm["scbert_proba"][held]
    )
    sc_cll.tl.predict(prepared_again := prepared.copy(), classifier)
    np.testing.assert_array_equal(prepared_again.obsm["scbert_proba"], adata.obsm["scbert_proba"])


def test_labels_and_tokens_of_test_cells_are_never_learned_from(prepared):
    clean, poisoned = prepared.copy(), prepared.copy()
    test = (poisoned.obs["split"] == "test").to_numpy()
    labels = poisoned.obs["cd49d"].copy()
    labels[test] = np.where(labels[test] == "CD49d+", "CD49d-", "CD49d+")
    poisoned.obs["cd49d"] = labels
    first, second = (sc_cll.tl.finetune(a, **FAST) for a in (clean, poisoned))
    np.testing.assert_array_equal(first.predict(clean, soft=True), second.predict(clean, soft=True))


def test_three_ordered_levels_work_the_same(prepared):
    adata = prepared.copy()
    model = sc_cll.tl.finetune(adata, labels_key="cd49d_level", **FAST)
    assert model.classes == ["zero", "low", "high"]
    assert list(adata.obsm["scbert_proba"].columns) == ["zero", "low", "high"]


def relabelled(adata, values):
    adata.obs["cd49d"] = pd.Categorical(values)
    return adata


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda a: a.obs.pop("split"), KeyError, "'split' is not in adata.obs.*pp.split_donors"),
        (lambda a: a.obs.pop("cd49d"), KeyError, "'cd49d' is not in adata.obs; it has .*'donor'"),
        (
            lambda a: relabelled(a, ["one"] * a.n_obs),
            ValueError,
            "at least two classes; found 'one'",
        ),
        (lambda a: relabelled(a, [None] * a.n_obs), ValueError, "at least two classes; found none"),
        (
            lambda a: relabelled(a, np.where(a.obs["split"] == "test", "b", "a")),
            ValueError,
            "No labelled training cell of class 'b'",
        ),
        (
            lambda a: a.obs.__setitem__("split", "other"),
            ValueError,
            "may hold 'train', 'val', 'test'; found also 'other'",
        ),
    ],
)
def test_bad_labels_and_splits_are_refused(prepared, change, error, match):
    adata = prepared.copy()
    change(adata)
    with unchanged(adata), pytest.raises(error, match=match):
        sc_cll.tl.finetune(adata, **FAST)


@pytest.mark.parametrize("wrong", [np.nan, -1.0, "high"])
def test_a_protein_without_counts_is_left_out_and_named(prepared, wrong):
    plain, adata = with_protein(prepared.copy()), with_protein(prepared.copy())
    adata.obsm["protein"].insert(1, "CD38", [wrong, *[1.0] * (adata.n_obs - 1)])
    sc_cll.tl.finetune(plain, protein_key="protein", **FAST)
    with pytest.warns(
        UserWarning,
        match="1 of 3 proteins in .* missing or negative values and are left out: 'CD38'",
    ):
        sc_cll.tl.finetune(adata, protein_key="protein", **FAST)
    np.testing.assert_array_equal(adata.obsm["scbert_proba"], plain.obsm["scbert_proba"])


@pytest.mark.parametrize(
    ("choices", "error", "match"),
    [
        (
            {"combine": "sum"},
            ValueError,
            "combine must be one of 'none', 'average', 'residual'; found 'sum'",
        ),
        ({"freeze": "half"}, ValueError, "freeze must be one of"),
        ({"donor_key": "patient"}, KeyError, "'patient' is not in adata.obs"),
        ({"protein_key": "adt"}, KeyError, "adt.* is not in adata.obsm"),
        (
            {"protein_key": "scaled"},
            ValueError,
            "must hold raw protein counts: finite, none negative; found values from -1",
        ),
    ],
)
def test_bad_choices_are_refused(prepared, choices, error, match):
    adata = prepared.copy()
    adata.obsm["scaled"] = np.full((adata.n_obs, 2), -1.0)
    with unchanged(adata), pytest.raises(error, match=match):
        sc_cll.tl.finetune(adata, **FAST | choices)
