"""Baselines: they find a signal, none where there is none, and see what they say they see."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from anndata import concat as concatenate
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scbert_cll.estimators import CellEstimator, OnMatrix, baselines, optional_baselines, seeded

NAMES = list(baselines())
LEARNING = [name for name in NAMES if name != "majority"]


def fitted(name: str, train: AnnData, y: pd.Series | None = None, *, rng: int = 1) -> CellEstimator:
    model = seeded(baselines()[name], rng)
    if name == "random_forest":
        model.set_params(estimator__n_estimators=60)  # 500 take their time
    return model.fit(train, train.obs["label"] if y is None else y, train.obs["donor"])


def auroc(model: CellEstimator, test: AnnData) -> float:
    return roc_auc_score((test.obs["label"] == "pos").to_numpy(), model.predict_proba(test)[:, 1])


def garbled(train: AnnData) -> AnnData:
    """The same cells, but the unlabelled ones have the counts of others, and many more of them."""
    other = train.copy()
    counts, unlabelled = train.X.toarray(), train.obs["label"].isna().to_numpy()
    counts[unlabelled] = 3 * counts[unlabelled][::-1, ::-1] + 1
    other.X = counts
    return other


def test_there_are_eleven_of_them():
    assert NAMES == [
        "majority",
        "gene_only",
        "library_size",
        "logistic_l2",
        "logistic_l1",
        "logistic_sgd",
        "random_forest",
        "gradient_boosting",
        "knn",
        "mlp_tokens",
        "pseudobulk",
    ]
    assert all(isinstance(model, CellEstimator) for model in baselines().values())
    assert list(optional_baselines()) == ["scvi_logistic", "scanvi"]


# --- all of them
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LEARNING)
def test_a_strong_signal_is_learned_and_the_same_seed_gives_the_same_numbers(name, train, test):
    model = fitted(name, train)
    proba = model.predict_proba(test)
    assert auroc(model, test) > (0.65 if name == "library_size" else 0.9)
    assert proba.shape == (test.n_obs, 2)
    assert (proba >= 0).all()
    np.testing.assert_allclose(proba.sum(1), 1, rtol=0, atol=1e-9)
    # order and companions of a cell make no difference
    np.testing.assert_allclose(model.predict_proba(test[::-1])[::-1], proba, rtol=0, atol=1e-6)
    np.testing.assert_allclose(model.predict_proba(test[3:5]), proba[3:5], rtol=0, atol=1e-6)
    # nor do cells without a label
    again = fitted(name, garbled(train)).predict_proba(test)
    np.testing.assert_array_equal(again, proba)


@pytest.mark.parametrize("name", LEARNING)
def test_permuted_labels_leave_chance(name, train, test):
    y = train.obs["label"].copy()
    known = y.notna().to_numpy()
    rng = np.random.default_rng(4)
    scores = []
    for _ in range(3):  # one permutation may be lucky
        y[known] = rng.permutation(y[known])
        scores.append(auroc(fitted(name, train, y), test))
    assert abs(np.mean(scores) - 0.5) < 0.2


@pytest.mark.parametrize("name", NAMES)
def test_three_classes_one_of_four_absent(name, train, test):
    half = (np.arange(train.n_obs) % 2).astype(bool)
    y = (
        train.obs["label"]
        .astype(object)
        .where(~(half & (train.obs["label"] == "pos").to_numpy()), "other")
    )
    y = y.where(train.obs["label"].notna()).astype(
        pd.CategoricalDtype(["pos", "missing", "other", "neg"])
    )
    model = fitted(name, train, y)
    assert model.classes_.tolist() == ["pos", "other", "neg"]
    proba = model.predict_proba(test)
    np.testing.assert_allclose(proba.sum(1), 1, rtol=0, atol=1e-9)
    if name != "majority":
        negative = (test.obs["label"] == "neg").to_numpy()
        assert roc_auc_score(negative, proba[:, 2]) > (0.7 if name == "library_size" else 0.85)


@pytest.mark.parametrize("name", NAMES)
def test_one_class_and_no_donors(name, train, test):
    y = train.obs["label"].where(train.obs["label"] == "neg")
    model = baselines()[name].fit(train, y)
    assert model.classes_.tolist() == ["neg"]
    np.testing.assert_array_equal(model.predict_proba(test), np.ones((test.n_obs, 1)))


@pytest.mark.parametrize("name", ["logistic_l2", "logistic_l1", "mlp_tokens"])
def test_a_class_of_one_cell_leaves_nothing_to_choose_by(name, train, test):
    y = train.obs["label"].where(train.obs["label"] == "neg")
    y.iloc[np.flatnonzero(train.obs["label"] == "pos")[0]] = "pos"
    model = fitted(name, train, y)
    assert model.classes_.tolist() == ["neg", "pos"]
    assert np.isfinite(model.predict_proba(test)).all()


# --- each for itself
# ----------------------------------------------------------------------------------------------


def test_majority_is_the_share_of_each_class(train, test):
    proba = fitted("majority", train).predict_proba(test)
    share = (train.obs["label"].dropna() == "pos").mean()
    np.testing.assert_allclose(proba, np.tile([1 - share, share], (test.n_obs, 1)))


def test_gene_only_reads_one_gene(train, test):
    model = fitted("gene_only", train)
    other = test.copy()
    rest = np.flatnonzero(test.var_names != "ITGA4")
    counts = test.X.toarray()
    counts[:, rest] = counts[:, rest[::-1]]
    other.X = counts
    np.testing.assert_allclose(model.predict_proba(other), model.predict_proba(test), atol=1e-6)
    named = baselines(gene="MALAT1")["gene_only"].fit(train, train.obs["label"])
    assert auroc(named, test) < auroc(model, test) - 0.1


def test_gene_only_without_its_gene_is_the_majority_and_says_so(train, test):
    without = train[:, train.var_names != "ITGA4"].copy()
    with pytest.warns(
        UserWarning,
        match=r"'ITGA4' is not in adata\.var_names, so gene_only knows nothing but the share",
    ):
        model = fitted("gene_only", without)
    np.testing.assert_array_equal(
        model.predict_proba(test), fitted("majority", train).predict_proba(test)
    )


def test_library_size_does_not_know_which_gene_is_which(train, test):
    model = fitted("library_size", train)
    other = test.copy()
    other.X = test.X[:, ::-1]
    np.testing.assert_allclose(model.predict_proba(other), model.predict_proba(test))


def test_logistic_l2_is_the_class_balanced_one_with_the_penalty_it_chose(train, test):
    model = fitted("logistic_l2", train)
    chosen = model.estimator_.best_params_
    assert chosen["logisticregression__C"] in (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    plain = make_pipeline(
        StandardScaler(with_mean=False), LogisticRegression(class_weight="balanced", max_iter=2000)
    )
    by_hand = OnMatrix(plain.set_params(**chosen), rng=1).fit(train, train.obs["label"])
    np.testing.assert_allclose(model.predict_proba(test), by_hand.predict_proba(test))


def test_the_penalty_is_for_other_donors(train):
    """A gene that tells the donors, and with them the training labels, apart is worth less where
    donors are held out.
    """
    y = train.obs["label"].copy()
    positive = train.obs["donor"].isin(sorted(train.obs["donor"].unique())[::2])
    rng = np.random.default_rng(0)
    y[:] = np.where(rng.random(train.n_obs) < np.where(positive, 0.95, 0.05), "pos", "neg")
    model = baselines()["logistic_l2"]
    by_cell = seeded(model, 0).fit(train, y).estimator_.best_params_
    by_donor = seeded(model, 0).fit(train, y, train.obs["donor"]).estimator_.best_params_
    assert by_donor["logisticregression__C"] < by_cell["logisticregression__C"]


def test_pseudobulk_learns_from_sums_of_donor_and_class(train):
    model = fitted("pseudobulk", train)
    labelled = train.obs.dropna(subset="label")
    assert model.n_profiles_ == len(labelled.groupby(["donor", "label"], observed=True))
    # each cell of one donor twice: the same profiles
    twice = concatenate(
        [train, train[train.obs["donor"] == "D03"]], index_unique="-", keys=["a", "b"]
    )
    twice.obs["label"] = (
        twice.obs["label"].astype("category").cat.reorder_categories(["neg", "pos"])
    )
    np.testing.assert_allclose(fitted("pseudobulk", twice).weights_, model.weights_, atol=1e-6)
    assert baselines()["pseudobulk"].fit(train, train.obs["label"]).n_profiles_ == 2


def test_small_data_have_fewer_components(train, test):
    few = train[train.obs["label"].notna()][:30].copy()
    assert np.isfinite(fitted("knn", few).predict_proba(test)).all()


def test_genes_are_picked_on_the_training_cells(plant):
    """A gene that varies in the cells to be predicted only is not among the 2,000 most variable
    ones.
    """
    cells = plant(n_cells=200)
    noise = np.random.default_rng(0).poisson(1.0, (cells.n_obs, 1900)).astype(np.float32)
    noise[:, 0] = np.where(cells.obs["test"], 100 * noise[:, 0], 0)
    wide = AnnData(np.hstack([cells.X.toarray(), noise]), obs=cells.obs)
    train, test = wide[~wide.obs["test"]], wide[wide.obs["test"]]
    model = seeded(baselines()["gradient_boosting"], 0).set_params(
        estimator__histgradientboostingclassifier__max_iter=5
    )
    model.fit(train, train.obs["label"]).predict_proba(test)
    picked = model.estimator_[0].columns_
    assert len(picked) == 2000
    assert cells.n_vars not in picked  # the first of the noise
    assert set(range(cells.n_vars - 5, cells.n_vars)) <= set(picked)  # planted


# --- scVI and scANVI
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["scvi_logistic", "scanvi"])
def test_an_epoch_of_scvi_is_silent_and_leaves_random_numbers_as_they_were(
    name, train, test, capfd
):
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    model = optional_baselines(max_epochs=1)[name]
    model.fit(train, train.obs["label"], train.obs["donor"])
    proba = model.predict_proba(test)
    assert proba.shape == (test.n_obs, 2)
    np.testing.assert_allclose(proba.sum(1), 1, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow  # trains scVI twice
@pytest.mark.parametrize("name", ["scvi_logistic", "scanvi"])
def test_scvi(name, train, test, capfd):
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    before = test.copy()
    models = [
        seeded(optional_baselines(max_epochs=30)[name], 3).fit(
            train, train.obs["label"], train.obs["donor"]
        )
        for _ in range(2)
    ]
    proba = models[0].predict_proba(test)
    assert models[0].classes_.tolist() == ["neg", "pos"]
    assert auroc(models[0], test) > 0.65
    np.testing.assert_allclose(proba.sum(1), 1, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(models[1].predict_proba(test), proba)
    np.testing.assert_allclose(models[0].predict_proba(test[::-1])[::-1][:5], proba[:5], atol=1e-5)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    assert capfd.readouterr() == ("", "")
    pd.testing.assert_frame_equal(test.obs, before.obs)
    assert not test.uns
