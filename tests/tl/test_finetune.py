from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

import scbert_cll as sc_cll

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


def test_model_none_trains_from_scratch_and_the_same_seed_gives_the_same(prepared):
    results = []
    for seed in (0, 0, 1):
        adata = prepared.copy()
        sc_cll.tl.finetune(adata, **FAST, rng=seed)
        results.append(adata.obsm["scbert_proba"].to_numpy())
    np.testing.assert_array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])


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
        (lambda a: a.obs.pop("cd49d"), KeyError, "'cd49d' is not in adata.obs; it has 'donor'"),
        (lambda a: relabelled(a, ["one"] * a.n_obs), ValueError, "at least two classes; found 'one'"),
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
def test_bad_labels_and_splits_are_refused(prepared, unchanged, change, error, match):
    adata = prepared.copy()
    change(adata)
    with unchanged(adata), pytest.raises(error, match=match):
        sc_cll.tl.finetune(adata, **FAST)
