"""The logistic regression beside the network: what it is, how the two are joined, and that it is
saved.
"""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scbert_cll.model import ScBERTClassifier
from scbert_cll.model.linear.regression import STRENGTHS, Examples, fit_linear, out_of_fold_logits


def rows(adata, part: str) -> np.ndarray:
    return np.flatnonzero(adata.obs["split"] == part)


def codes(adata) -> np.ndarray:
    return adata.obs["label"].cat.codes.to_numpy().astype(np.int64)


@pytest.fixture(scope="session")
def fitted(simulate):
    """Tokens, class codes and the fitted linear part."""
    adata = simulate()
    tokens, y, ones = adata.layers["binned"], codes(adata), np.ones(adata.n_obs)
    cells = Examples(tokens, y, ones, rows(adata, "train"), rows(adata, "val"))
    return adata, tokens, y, fit_linear(cells)


@pytest.fixture(scope="session")
def joined(simulate, classify):
    """One classifier of each way of joining, on the same cells."""
    adata = simulate()
    return adata, {
        how: classify(adata.copy(), 4, combine=how) for how in ("none", "average", "residual")
    }


def test_the_linear_part_is_scikit_learns_logistic_regression(fitted) -> None:
    adata, tokens, y, part = fitted
    train = rows(adata, "train")
    expected = make_pipeline(
        StandardScaler(with_mean=False), LogisticRegression(C=part.strength, max_iter=2000)
    ).fit(tokens[train].astype(float), y[train])
    np.testing.assert_allclose(
        part.proba(tokens), expected.predict_proba(tokens.astype(float)), atol=1e-10
    )


def test_its_penalty_is_the_best_one_on_the_validation_cells(fitted) -> None:
    adata, tokens, y, part = fitted
    train, val = rows(adata, "train"), rows(adata, "val")

    def loss(strength: float) -> float:
        model = make_pipeline(
            StandardScaler(with_mean=False), LogisticRegression(C=strength, max_iter=2000)
        )
        model.fit(tokens[train].astype(float), y[train])
        return log_loss(y[val], model.predict_proba(tokens[val].astype(float)))

    assert part.strength == min(STRENGTHS, key=loss)


def test_three_classes_and_weights(simulate) -> None:
    adata = simulate(150)
    tokens, rng = adata.layers["binned"], np.random.default_rng(0)
    y, weights = rng.integers(0, 3, adata.n_obs), rng.uniform(0.5, 2, adata.n_obs)
    train = rows(adata, "train")
    part = fit_linear(Examples(tokens, y, weights, train, rows(adata, "val")))
    scaler = StandardScaler(
        with_mean=False
    )  # scaled by all training cells alike, fitted with weights
    expected = LogisticRegression(C=part.strength, max_iter=2000)
    expected.fit(scaler.fit_transform(tokens[train].astype(float)), y[train], weights[train])
    np.testing.assert_allclose(
        part.proba(tokens),
        expected.predict_proba(scaler.transform(tokens.astype(float))),
        atol=1e-10,
    )


def test_without_validation_cells_inner_folds_choose(fitted) -> None:
    adata, tokens, y, _ = fitted
    none = np.zeros(0, np.int64)
    part = fit_linear(Examples(tokens, y, np.ones(len(y)), rows(adata, "train"), none))
    assert part.strength in STRENGTHS
    test = rows(adata, "test")
    assert roc_auc_score(y[test], part.logits(tokens)[test, 1]) > 0.9
    one = np.r_[np.flatnonzero(y == 0)[:5], np.flatnonzero(y == 1)[:1]]  # nothing to hold out
    few = Examples(tokens, y, np.ones(len(y)), one, none)
    assert fit_linear(few).strength in STRENGTHS


def test_out_of_fold_logits_of_training_cells_have_not_seen_their_labels(simulate) -> None:
    """With labels that mean nothing, fitted logits separate the training cells and out-of-fold ones
    do not.
    """
    adata = simulate(200)
    tokens, ones = adata.layers["binned"], np.ones(adata.n_obs)
    y = np.random.default_rng(3).integers(0, 2, adata.n_obs)
    train = rows(adata, "train")
    cells = Examples(tokens, y, ones, train, train)
    strong = fit_linear(cells)  # chosen on its own cells: overfitted
    found = out_of_fold_logits(strong, cells)
    assert roc_auc_score(y[train], strong.logits(tokens)[train, 1]) > 0.75
    assert roc_auc_score(y[train], found[train, 1]) < 0.65
    others = np.setdiff1d(np.arange(adata.n_obs), train)
    np.testing.assert_array_equal(found[others], strong.logits(tokens)[others])


def test_alone_the_network_is_what_is_predicted(joined) -> None:
    adata, models = joined
    found = models["none"].predict_parts(adata)
    pd.testing.assert_frame_equal(found.joined, found.network)
    assert not np.allclose(found.network, found.linear, atol=0.01)


def test_an_average_is_the_mean_of_log_probabilities(joined) -> None:
    adata, models = joined
    found = models["average"].predict_parts(adata)
    mean = (np.log(found.network.to_numpy()) + np.log(found.linear.to_numpy())) / 2
    np.testing.assert_allclose(found.joined.to_numpy(), softmax(mean, axis=1), atol=1e-5)
    pd.testing.assert_frame_equal(
        found.network, models["none"].predict(adata, soft=True), check_exact=False, atol=1e-6
    )


def test_a_residual_adds_to_the_linear_logits(joined) -> None:
    adata, models = joined
    found = models["residual"].predict_parts(adata)
    total = log_softmax(np.log(found.network.to_numpy()) + np.log(found.linear.to_numpy()), axis=1)
    np.testing.assert_allclose(found.joined.to_numpy(), np.exp(total), atol=1e-5)


def test_a_residual_that_learns_nothing_leaves_the_linear_part(simulate, classify) -> None:
    adata = simulate()
    found = classify(adata, 2, combine="residual", lr=0.0).predict_parts()
    np.testing.assert_allclose(found.joined.to_numpy(), found.linear.to_numpy(), atol=1e-6)
    np.testing.assert_allclose(found.network.to_numpy(), 0.5, atol=1e-7)


def test_a_residual_is_left_out_where_every_epoch_is_worse(simulate, classify) -> None:
    """Training with a step so large that it destroys the network ends with the linear part, epoch
    0.
    """
    adata = simulate()
    found = classify(adata, 2, combine="residual", lr=30.0).predict_parts()
    np.testing.assert_allclose(found.joined.to_numpy(), found.linear.to_numpy(), atol=1e-6)


@pytest.mark.parametrize("how", ["none", "average", "residual"])
def test_the_linear_part_is_saved(joined, tmp_path, how) -> None:
    adata, models = joined
    models[how].save(tmp_path / "model")
    loaded = ScBERTClassifier.load(tmp_path / "model")
    before, after = models[how].predict_parts(adata), loaded.predict_parts(adata)
    for name in ("joined", "network", "linear"):
        pd.testing.assert_frame_equal(
            getattr(before, name), getattr(after, name), check_exact=False, atol=1e-6
        )
    assert json.loads((tmp_path / "model" / "config.json").read_text())["joined"]["combine"] == how


def test_a_damaged_linear_part_is_named(joined, tmp_path) -> None:
    joined[1]["average"].save(tmp_path / "model")
    file = tmp_path / "model" / "linear.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(
        ValueError, match=r"linear\.safetensors is damaged or missing: its checksum"
    ):
        ScBERTClassifier.load(tmp_path / "model")


def test_predictions_do_not_depend_on_companions(joined) -> None:
    adata, models = joined
    order = np.random.default_rng(0).permutation(adata.n_obs)[:30]
    for model in models.values():
        whole, some = (
            model.predict(adata, soft=True),
            model.predict(adata[order].copy(), soft=True, batch_size=7),
        )
        np.testing.assert_allclose(some.to_numpy(), whole.to_numpy()[order], atol=1e-6)


def test_unknown_ways_are_refused(simulate, classify) -> None:
    with pytest.raises(ValueError, match=r"combine must be one of .*average.*found 'sum'"):
        classify(simulate(), combine="sum")
    with pytest.raises(KeyError, match="person"):
        classify(simulate(), donor_key="person")
