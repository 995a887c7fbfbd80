"""Any scikit-learn classifier as a classifier of cells."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.cluster import KMeans
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.metrics import brier_score_loss, roc_auc_score
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, StandardScaler
from sklearn.svm import LinearSVC

import scbert_cll as sb
from scbert_cll.estimators import CellEstimator, OnMatrix, as_estimator, seeded


class SpyClassifier(ClassifierMixin, BaseEstimator):
    """Keeps what its fit was given."""

    seen: ClassVar[dict[str, Any]] = {}

    def __init__(self, random_state: int = 0) -> None:
        self.random_state = random_state

    def fit(self, X, y, groups=None):
        self.seen.update(X=X, y=y, groups=groups, random_state=self.random_state)
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X):
        return np.full((X.shape[0], len(self.classes_)), 1 / len(self.classes_))


def logistic() -> LogisticRegression:
    return LogisticRegression(C=0.01, max_iter=500)


# --- what the classifier sees
# -------------------------------------------------------------------------------------


def test_classifier_sees_labelled_cells_as_log2_and_donors_as_groups(train):
    OnMatrix(SpyClassifier(), rng=7).fit(train, train.obs["label"], train.obs["donor"])
    seen, labelled = SpyClassifier.seen, train.obs["label"].notna().to_numpy()
    counts = train.X.toarray()[labelled].astype(float)
    expected = np.log2(1 + 1e4 * counts / counts.sum(1, keepdims=True))
    assert isinstance(seen["X"], sparse.csr_matrix)
    assert seen["X"].dtype == np.float32
    np.testing.assert_allclose(seen["X"].toarray(), expected, rtol=1e-6)
    np.testing.assert_array_equal(seen["y"], (train.obs["label"][labelled] == "pos").astype(int))
    pairs = {*zip(seen["groups"], train.obs["donor"][labelled], strict=True)}
    assert len(pairs) == train.obs["donor"].nunique() == len(set(seen["groups"]))
    assert seen["random_state"] == 7


@pytest.mark.parametrize("piped", [False, True])
def test_a_search_that_splits_by_groups_is_told_the_donors(train, piped):
    seen = []

    class ByDonor(GroupKFold):
        def split(self, X, y=None, groups=None):
            seen.append(groups)
            return super().split(X, y, groups)

    search = GridSearchCV(logistic(), {"C": [0.01, 0.1]}, cv=ByDonor(3))
    OnMatrix(make_pipeline(MaxAbsScaler(), search) if piped else search).fit(
        train, train.obs["label"], train.obs["donor"]
    )
    labelled = train.obs["label"].notna()
    assert seen
    assert all(len(set(groups)) == train.obs["donor"][labelled].nunique() for groups in seen)


def test_a_search_that_splits_rows_is_not(train):
    seen = []

    class ByRow(KFold):
        def split(self, X, y=None, groups=None):
            seen.append(groups)
            return super().split(X, y, groups)

    search = GridSearchCV(logistic(), {"C": [0.01, 0.1]}, cv=ByRow(3))
    OnMatrix(search).fit(train, train.obs["label"], train.obs["donor"])
    assert seen == [None] * len(seen) != []


def test_tokens_are_those_of_bin_expression(train):
    OnMatrix(SpyClassifier(), features="tokens").fit(train, train.obs["label"])
    binned = sb.pp.bin_expression(train, copy=True)[train.obs["label"].notna()].layers["binned"]
    assert SpyClassifier.seen["X"].dtype == np.float32
    assert SpyClassifier.seen["groups"] is None
    np.testing.assert_array_equal(SpyClassifier.seen["X"].toarray(), binned.toarray())


def test_fit_and_predict_leave_the_object_alone(train):
    before = train.copy()
    OnMatrix(logistic(), features="tokens").fit(
        train, train.obs["label"], train.obs["donor"]
    ).predict(train)
    np.testing.assert_array_equal(train.X.toarray(), before.X.toarray())
    pd.testing.assert_frame_equal(train.obs, before.obs)
    assert not train.layers
    assert not train.uns


# --- what comes out
# -----------------------------------------------------------------------------------------------


def test_same_as_scikit_learn_by_hand(train, test):
    found = OnMatrix(logistic()).fit(train, train.obs["label"]).predict_proba(test)
    use = train.obs["label"].notna().to_numpy()
    x, new = (
        np.log2(1 + 1e4 * c / c.sum(1, keepdims=True))
        for c in (train.X.toarray()[use], test.X.toarray())
    )
    expected = logistic().fit(x, train.obs["label"][use].astype(str)).predict_proba(new)
    np.testing.assert_allclose(
        found, expected, atol=2e-3
    )  # float32 against float64, to the solver's tolerance


def test_a_prediction_belongs_to_the_cell(train, test):
    model = OnMatrix(logistic()).fit(train, train.obs["label"])
    whole = model.predict_proba(test)
    np.testing.assert_allclose(whole.sum(1), 1, rtol=0, atol=1e-12)
    np.testing.assert_allclose(model.predict_proba(test[::-1])[::-1], whole, atol=1e-7)
    np.testing.assert_allclose(model.predict_proba(test[5]), whole[[5]], atol=1e-7)


@pytest.mark.parametrize(
    "form", [sparse.csc_matrix, sparse.csr_array, lambda x: x.toarray(), lambda x: x.astype(int)]
)
def test_any_matrix_of_counts(train, test, form):
    model = OnMatrix(logistic()).fit(train, train.obs["label"])
    other = test.copy()
    other.X = form(test.X)
    np.testing.assert_allclose(model.predict_proba(other), model.predict_proba(test), atol=1e-7)


def test_genes_are_matched_by_name(train, test):
    model = OnMatrix(logistic()).fit(train, train.obs["label"])
    np.testing.assert_allclose(
        model.predict_proba(test[:, ::-1]), model.predict_proba(test), atol=1e-7
    )
    former = test.copy()
    former.var_names = ["CD49D" if gene == "ITGA4" else gene for gene in test.var_names]
    sentence = (
        r"'ITGA4' not in adata.var_names, .*pp.align_genes\(adata, list\(estimator.genes_\)\)"
    )
    with pytest.raises(KeyError, match=sentence):
        model.predict_proba(former)
    aligned = sb.pp.align_genes(former, list(model.genes_))
    np.testing.assert_allclose(model.predict_proba(aligned), model.predict_proba(test), atol=1e-7)


def test_classes_keep_the_order_of_the_categories_and_leave_out_the_absent(train, test):
    y = (
        train.obs["label"]
        .cat.rename_categories({"neg": "zero", "pos": "high"})
        .cat.add_categories(["absent"])
    )
    model = OnMatrix(logistic()).fit(train, y.cat.reorder_categories(["absent", "zero", "high"]))
    assert model.classes_.tolist() == ["zero", "high"]
    plain = OnMatrix(logistic()).fit(train, train.obs["label"])
    np.testing.assert_array_equal(model.predict_proba(test), plain.predict_proba(test))
    called = model.predict(test)
    assert set(called) == {"zero", "high"}
    np.testing.assert_array_equal(called == "high", model.predict_proba(test)[:, 1] > 0.5)
    assert (
        model.score(test, test.obs["label"].map({"neg": "zero", "pos": "high"}).astype(str)) > 0.9
    )


def test_labels_need_not_be_categorical(train, test):
    model = OnMatrix(logistic()).fit(
        train, train.obs["label"].map({"neg": 0.0, "pos": 1.0}).astype(float)
    )
    assert model.classes_.tolist() == ["0", "1"]
    text = train.obs["label"].astype(object)
    assert OnMatrix(logistic()).fit(train, text).classes_.tolist() == ["neg", "pos"]


def test_one_class_is_certain(train, test):
    y = train.obs["label"].where(train.obs["label"] == "pos")
    model = OnMatrix(logistic()).fit(train, y)
    assert model.classes_.tolist() == ["pos"]
    np.testing.assert_array_equal(model.predict_proba(test), np.ones((test.n_obs, 1)))


def test_weights_reach_the_classifier_of_a_pipeline(train, test):
    model = OnMatrix(make_pipeline(StandardScaler(with_mean=False), logistic()))
    weight = np.where(train.obs["label"] == "pos", 1.0, 0.0) * 5 + 1
    plain = model.fit(train, train.obs["label"]).predict_proba(test)[:, 1]
    weighted = (
        clone(model).fit(train, train.obs["label"], sample_weight=weight).predict_proba(test)[:, 1]
    )
    assert (weighted > plain).mean() > 0.9
    with pytest.raises(ValueError, match=r"sample_weight must hold a finite weight .* found shape"):
        model.fit(train, train.obs["label"], sample_weight=weight[:-1])
    with pytest.raises(ValueError, match="SpyClassifier takes no sample_weight"):
        OnMatrix(SpyClassifier()).fit(train, train.obs["label"], sample_weight=weight)


# --- as_estimator and seeded
# --------------------------------------------------------------------------------------


def test_estimators_stay_and_classifiers_are_put_on_a_matrix():
    own = OnMatrix(logistic())
    assert as_estimator(own) is own
    wrapped = as_estimator(logistic())
    assert isinstance(wrapped, OnMatrix)
    assert isinstance(wrapped, CellEstimator)
    assert isinstance(wrapped.estimator, LogisticRegression)


@pytest.mark.parametrize(
    "decider",
    [LinearSVC(), RidgeClassifier(), make_pipeline(StandardScaler(with_mean=False), LinearSVC())],
)
def test_decisions_are_made_probabilities(train, test, decider):
    model = as_estimator(decider).fit(train, train.obs["label"], train.obs["donor"])
    proba, truth = model.predict_proba(test), (test.obs["label"] == "pos").to_numpy()
    np.testing.assert_allclose(proba.sum(1), 1)
    assert roc_auc_score(truth, proba[:, 1]) > 0.95
    assert brier_score_loss(truth, proba[:, 1]) < 0.08


def test_calibration_is_by_donor(train):
    """The decision is calibrated on cells of donors that did not train it."""
    fits = []

    class Decides(RidgeClassifier):
        def fit(self, X, y):
            fits.append({row.tobytes() for row in X.toarray()})
            return super().fit(X, y)

    as_estimator(Decides()).fit(train, train.obs["label"], train.obs["donor"])
    donors = train.obs["donor"].to_numpy()
    counts = train.X.toarray()
    x = np.log2(1 + counts * (1e4 / counts.sum(1, dtype=np.float64))[:, None].astype(np.float32))
    use = train.obs["label"].notna().to_numpy()
    assert len(fits) == 4  # three inner folds, and all cells
    for rows in fits[:3]:
        inside = np.array([row.tobytes() in rows for row in x])
        trained, left = set(donors[inside & use]), set(donors[~inside & use])
        assert trained
        assert left
        assert not trained & left


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (
            LogisticRegression,
            r"LogisticRegression is a class; give an instance of it: LogisticRegression\(…\)",
        ),
        (OnMatrix, "OnMatrix is a class; give an instance"),
        (
            LinearRegression(),
            (
                "Expected an estimator of this package or a scikit-learn classifier, found "
                "LinearRegression"
            ),
        ),
        (KMeans(), "found KMeans"),
        ("logistic", "found str"),
        (None, "found NoneType"),
    ],
)
def test_what_is_no_classifier_is_refused(model, match):
    with pytest.raises(TypeError, match=match):
        as_estimator(model)


def test_a_classifier_that_only_calls_is_refused():
    class Caller(ClassifierMixin, BaseEstimator):
        def fit(self, X, y):
            return self

    with pytest.raises(TypeError, match="Caller has neither predict_proba nor decision_function"):
        as_estimator(Caller())


def test_seeded_reaches_every_seed_and_copies():
    model = OnMatrix(make_pipeline(StandardScaler(with_mean=False), logistic()), rng=3)
    copy = seeded(model, 11)
    seeds = {
        name: v for name, v in copy.get_params().items() if name.endswith(("rng", "random_state"))
    }
    assert seeds == {"rng": 11, "estimator__logisticregression__random_state": 11}
    assert model.rng == 3
    assert seeded(logistic(), 4).random_state == 4


# --- where it refuses
# ---------------------------------------------------------------------------------------------


def test_bad_input(train):
    y, model = train.obs["label"], OnMatrix(logistic())
    with pytest.raises(ValueError, match=r"y has no label in any of the .* training cells"):
        model.fit(train, pd.Series(np.nan, train.obs_names, dtype=object))
    with pytest.raises(
        TypeError, match="y must be a pandas Series over the cells of adata, found ndarray"
    ):
        model.fit(train, y.to_numpy())
    with pytest.raises(
        ValueError,
        match=r"y must have one value per cell, named and in the order of adata.obs_names",
    ):
        model.fit(train, y[::-1])
    with pytest.raises(ValueError, match="groups must have one value per cell"):
        model.fit(train, y, train.obs["donor"].iloc[1:])
    with pytest.raises(ValueError, match="features must be one of 'log2', 'tokens'; found 'raw'"):
        OnMatrix(logistic(), features="raw").fit(train, y)
    with pytest.raises(TypeError, match="Expected an AnnData, found ndarray"):
        model.fit(train.X.toarray(), y)
    with pytest.raises(NotFittedError, match="not fitted"):
        model.predict_proba(train)


@pytest.mark.parametrize("features", ["log2", "tokens"])
def test_only_counts_will_do(train, features):
    y, model = train.obs["label"], OnMatrix(logistic(), features=features)
    logged, empty = train.copy(), train.copy()
    logged.X = np.log1p(train.X)
    with pytest.raises(ValueError, match=r"adata\.X must hold raw counts.*log-transformed"):
        model.fit(logged, y)
    hollow = empty.X.toarray()
    hollow[1] = 0
    empty.X = hollow
    with pytest.raises(ValueError, match=r"1 cells have no counts in adata.X"):
        model.fit(empty, y)
