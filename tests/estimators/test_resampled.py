"""Balancing inside the fit, for any estimator."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

import scbert_cll as sb
from scbert_cll.estimators import OnMatrix, Resampled, baselines

RESAMPLING = ("oversample", "undersample", "smote")
LINEAR = LogisticRegression(C=0.01, max_iter=500)


def seen_by(spy, train, method, **kwargs):
    Resampled(spy(), method, **kwargs).fit(train, train.obs["label"], train.obs["donor"])
    return spy.seen[-1]


def counts_of(y: pd.Series) -> dict[str, int]:
    return y.value_counts().to_dict()


@pytest.mark.parametrize("method", RESAMPLING)
def test_classes_are_as_large_as_each_other_and_unlabelled_cells_stay(train, spy, method):
    found, before = seen_by(spy, train, method), counts_of(train.obs["label"])
    size = min(before.values()) if method == "undersample" else max(before.values())
    assert counts_of(found["y"]) == {"neg": size, "pos": size}
    assert found["y"].isna().sum() == train.obs["label"].isna().sum()
    assert found["y"].index.equals(found["adata"].obs_names)
    assert found["groups"].index.equals(found["adata"].obs_names)
    assert found["y"].cat.categories.tolist() == ["neg", "pos"]
    assert found["weight"] is None
    assert (found["adata"].X.data == np.trunc(found["adata"].X.data)).all()


@pytest.mark.parametrize("method", RESAMPLING)
def test_cells_keep_their_donor(train, spy, method):
    found = seen_by(spy, train, method)
    original = [
        name.rpartition("-copy")[0] or name.rpartition("-smote")[0] or name
        for name in found["groups"].index
    ]
    np.testing.assert_array_equal(found["groups"], train.obs["donor"].loc[original])
    assert set(found["adata"].obs["is_synthetic"]) == (
        {False} if method == "undersample" else {False, True}
    )


def test_copies_are_copies(train, spy):
    found = seen_by(spy, train, "oversample")["adata"]
    copy = found[found.obs["is_synthetic"]][0]
    np.testing.assert_array_equal(
        copy.X.toarray(), train[copy.obs_names[0].rpartition("-copy")[0]].X.toarray()
    )


def test_weights_make_classes_weigh_the_same(train, spy):
    found = seen_by(spy, train, "weights")
    weight = pd.Series(found["weight"], found["y"].index)
    per_class = weight.groupby(found["y"], observed=True).sum()
    assert per_class["neg"] == pytest.approx(per_class["pos"], rel=1e-5)
    assert (weight[found["y"].isna()] == 0).all()
    assert list(found["adata"].obs_names) == list(train.obs_names)


def test_none_changes_nothing(train, test, spy):
    found = seen_by(spy, train, "none")
    assert list(found["adata"].obs_names) == list(train.obs_names)
    plain = OnMatrix(LINEAR).fit(train, train.obs["label"])
    same = Resampled(LINEAR, "none").fit(train, train.obs["label"])
    np.testing.assert_array_equal(same.predict_proba(test), plain.predict_proba(test))


@pytest.mark.parametrize("method", ["weights", *RESAMPLING])
def test_every_method_on_a_classifier(train, test, method):
    y = train.obs["label"].copy()
    y.iloc[np.flatnonzero(y == "pos")[15:]] = np.nan  # 15 against about 140
    plain = Resampled(LINEAR, "none").fit(train, y, train.obs["donor"]).predict_proba(test)[:, 1]
    model = Resampled(LINEAR, method, rng=3).fit(train, y, train.obs["donor"])
    proba = model.predict_proba(test)[:, 1]
    assert proba.mean() > plain.mean() + 0.05
    assert roc_auc_score((test.obs["label"] == "pos").to_numpy(), proba) > 0.8
    again = Resampled(LINEAR, method, rng=3).fit(train, y, train.obs["donor"])
    np.testing.assert_array_equal(again.predict_proba(test)[:, 1], proba)
    np.testing.assert_allclose(model.predict_proba(test[::-1])[::-1, 1], proba, atol=1e-7)


def test_weights_reach_a_pipeline_inside_a_search(train, test):
    y = train.obs["label"]
    model = Resampled(baselines()["logistic_l2"], "weights").fit(train, y, train.obs["donor"])
    plain = baselines()["logistic_l2"].fit(train, y, train.obs["donor"])
    # it balances classes by itself: weights on top of that are not counted twice
    np.testing.assert_allclose(model.predict_proba(test), plain.predict_proba(test), atol=0.02)


@pytest.mark.parametrize("method", ["weights", *RESAMPLING])
def test_the_users_cells_stay_as_they_are(train, method):
    sb.pp.bin_expression(train)
    train.obsp["near"] = train.X @ train.X.T
    before = train.copy()
    Resampled(LINEAR, method).fit(train, train.obs["label"], train.obs["donor"])
    np.testing.assert_array_equal(train.X.toarray(), before.X.toarray())
    pd.testing.assert_frame_equal(train.obs, before.obs)
    assert train.uns.keys() == before.uns.keys()
    assert train.layers.keys() == before.layers.keys()


def test_without_donors_copies_of_a_cell_stay_together_in_inner_folds(train, spy):
    told = []

    class Told(ClassifierMixin, BaseEstimator):
        def fit(self, X, y, groups=None):
            told.append((X, groups))
            self.classes_ = np.unique(y)
            return self

        def predict_proba(self, X):
            return np.full((X.shape[0], 2), 0.5)

    Resampled(Told()).fit(train, train.obs["label"])
    x, groups = told[0]
    cells = [row.tobytes() for row in x.toarray()]
    assert len(cells) > len(set(cells)) == len(set(groups))
    assert len(set(zip(cells, groups, strict=True))) == len(set(cells))
    Resampled(spy()).fit(train, train.obs["label"])
    assert spy.seen[-1]["groups"] is None


def test_smote_with_few_cells_of_a_class(train, spy):
    y = train.obs["label"].copy()
    y.iloc[np.flatnonzero(y == "pos")[3:]] = np.nan
    Resampled(spy(), "smote").fit(train, y, train.obs["donor"])
    assert len(set(counts_of(spy.seen[-1]["y"]).values())) == 1
    y.iloc[np.flatnonzero(y == "pos")[1:]] = np.nan
    with pytest.raises(
        ValueError, match="needs groups of at least 2 training cells; found 'pos' with 1"
    ):
        Resampled(spy(), "smote").fit(train, y, train.obs["donor"])


@pytest.mark.parametrize("method", ["weights", *RESAMPLING])
def test_one_class_is_balanced(train, test, method):
    y = train.obs["label"].where(train.obs["label"] == "pos")
    model = Resampled(LINEAR, method).fit(train, y)
    np.testing.assert_array_equal(model.predict_proba(test), np.ones((test.n_obs, 1)))


def test_bad_input(train):
    y = train.obs["label"]
    with pytest.raises(
        ValueError, match=r"method must be one of 'none', 'weights'.*; found 'adasyn'"
    ):
        Resampled(LINEAR, "adasyn").fit(train, y)
    with pytest.raises(
        ValueError,
        match="KNeighborsClassifier takes no sample_weight, so it cannot be balanced by weights",
    ):
        Resampled(KNeighborsClassifier(), "weights").fit(train, y)
    train.obs["is_synthetic"] = False
    with pytest.raises(
        ValueError, match=r"balanced already \(it has adata\.obs\['is_synthetic'\]\)"
    ):
        Resampled(LINEAR).fit(train, y)
