"""Hyperparameters by optuna, on donors held apart."""

from __future__ import annotations

import sys

import numpy as np
import optuna
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scbert_cll.estimators import OnMatrix, Tuned, as_estimator, seeded

LINEAR = make_pipeline(StandardScaler(with_mean=False), LogisticRegression(max_iter=500))
C = "estimator__logisticregression__C"


def test_the_best_of_the_trials_is_fitted_to_all_cells(train, test):
    space = {C: ("float", 1e-6, 1.0, "log"), "features": ["log2", "tokens"]}
    model = Tuned(OnMatrix(LINEAR), space, n_trials=6, rng=2).fit(
        train, train.obs["label"], train.obs["donor"]
    )
    trials = model.trials_
    assert list(trials.columns) == ["trial", C, "features", "log_loss"]
    assert trials["trial"].tolist() == list(range(6))
    best = trials.loc[trials["log_loss"].idxmin()]
    assert model.best_params_ == {C: best[C], "features": best["features"]}
    by_hand = seeded(OnMatrix(LINEAR).set_params(**model.best_params_), 2).fit(
        train, train.obs["label"]
    )
    np.testing.assert_array_equal(model.predict_proba(test), by_hand.predict_proba(test))
    assert model.classes_.tolist() == ["neg", "pos"]


@pytest.mark.parametrize(
    ("metric", "better"), [("log_loss", min), ("brier", min), ("macro_f1", max), ("auroc", max)]
)
def test_what_is_better_depends_on_the_metric(train, metric, better):
    model = Tuned(LINEAR, {C: [1e-9, 1e-2]}, n_trials=5, metric=metric).fit(
        train, train.obs["label"]
    )
    values = model.trials_.groupby(C)[metric].first()
    assert len(values) == 2
    assert values[model.best_params_[C]] == better(values)
    assert model.best_params_ == {C: 1e-2}


def test_the_same_seed_gives_the_same_trials(train):
    def trials(rng: int) -> pd.DataFrame:
        tuned = Tuned(LINEAR, {C: ("float", 1e-4, 1.0, "log")}, n_trials=3, n_inner=2, rng=rng)
        return tuned.fit(train, train.obs["label"], train.obs["donor"]).trials_

    pd.testing.assert_frame_equal(trials(1), trials(1))
    assert (trials(1)[C] != trials(2)[C]).all()


def test_held_out_donors_are_neither_learned_from_nor_missed(train, spy):
    Tuned(spy(), {"level": ("float", 0.2, 0.8)}, n_trials=2).fit(
        train, train.obs["label"], train.obs["donor"]
    )
    *inner, last = spy.seen
    donor = train.obs["donor"]
    assert len(inner) == 2 * 3
    for fit in inner:
        assert not set(fit["groups"]) & set(
            donor[fit["predicted"]]
        )  # unlabelled cells of these donors included
        assert fit["y"].isna().any()  # those of the others are there, as unlabelled
    for trial in (inner[:3], inner[3:]):
        predicted = [name for fit in trial for name in fit["predicted"]]
        assert sorted(predicted) == sorted(train.obs_names[train.obs["label"].notna()])
    assert list(last["adata"].obs_names) == list(train.obs_names)


def test_without_donors_cells_are_held_out(train, spy):
    Tuned(spy(), {"level": [0.3]}, n_trials=1, n_inner=2).fit(train, train.obs["label"])
    for fit in spy.seen[:-1]:
        assert fit["groups"] is None
        assert not set(fit["adata"].obs_names) & set(fit["predicted"])


def test_values_of_every_kind(train, spy):
    space = {"level": ("float", 0.4, 0.6), "rng": ("int", 3, 5)}
    model = Tuned(spy(), space, n_trials=4, n_inner=2).fit(
        train, train.obs["label"], train.obs["donor"]
    )
    assert model.trials_["level"].between(0.4, 0.6).all()
    assert set(model.trials_["rng"]) <= {3, 4, 5}
    lists = Tuned(
        LINEAR, {"estimator__logisticregression__class_weight": [None, {0: 1, 1: 3}]}, n_trials=3
    )
    best = lists.fit(train, train.obs["label"]).best_params_
    assert next(iter(best.values())) in (None, {0: 1, 1: 3})


def test_one_class_leaves_nothing_to_tune(train, test):
    y = train.obs["label"].where(train.obs["label"] == "pos")
    model = Tuned(LINEAR, {C: [0.1, 1.0]}, n_trials=2).fit(train, y)
    assert model.best_params_ == {}
    assert model.trials_.empty
    assert model.trials_.columns.tolist() == ["trial", C, "log_loss"]
    np.testing.assert_array_equal(model.predict_proba(test), np.ones((test.n_obs, 1)))


def test_the_users_estimator_and_optunas_voice_stay_as_they_are(train, capfd):
    given, verbosity = OnMatrix(LINEAR, rng=5), optuna.logging.get_verbosity()
    before = str(given.get_params())
    Tuned(given, {C: [0.1]}, n_trials=1).fit(train, train.obs["label"])
    assert str(given.get_params()) == before
    assert optuna.logging.get_verbosity() == verbosity
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("space", "match"),
    [
        (
            {"estimator__C": [1.0]},
            (
                r"space names parameters the estimator does not have: 'estimator__C'; it has "
                r"'estimator'"
            ),
        ),
        ({}, "space is empty; name at least one parameter"),
        (
            {C: []},
            (
                r"space\['estimator__logisticregression__C'\] must be \(\"float\", low, high\).*; "
                r"found \[\]"
            ),
        ),
        ({C: ("float", 1.0)}, "found \\('float', 1.0\\)"),
        ({C: ("float", 1.0, 0.1)}, "found"),
        ({C: ("float", 0.0, 1.0, "log")}, "found"),
        ({C: ("int", 0.5, 1)}, "found"),
        ({C: ("double", 0.5, 1)}, "found"),
        ({C: 0.5}, "found 0.5"),
    ],
)
def test_bad_spaces(train, space, match):
    with pytest.raises(ValueError, match=match):
        Tuned(LINEAR, space).fit(train, train.obs["label"])


def test_bad_input(train):
    y = train.obs["label"]
    with pytest.raises(ValueError, match=r"metric must be one of 'accuracy'.*; found 'loss'"):
        Tuned(LINEAR, {C: [1.0]}, metric="loss").fit(train, y)
    with pytest.raises(ValueError, match="n_trials must be a whole number from 1"):
        Tuned(LINEAR, {C: [1.0]}, n_trials=0).fit(train, y)
    with pytest.raises(TypeError, match="found str"):
        Tuned("linear", {C: [1.0]}).fit(train, y)


def test_without_optuna_the_sentence_says_how_to_get_it(train, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    model = Tuned(as_estimator(LINEAR), {C: [1.0]})
    with pytest.raises(
        ImportError,
        match=r"Tuned needs optuna, which is not installed: pip install 'scbert-cll\[tune\]'",
    ):
        model.fit(train, train.obs["label"])
