"""tl.cross_validate: nobody sees test donors, every cell is scored once, and a run goes on where it
stopped.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.collections import PathCollection
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score

import scbert_cll as sc_cll
from scbert_cll.estimators import CellEstimator, ScBERTEstimator
from tests._make import unchanged

CHEAP = ["majority", "gene_only"]


@pytest.fixture(scope="session")
def _toy() -> AnnData:
    adata = sc_cll.datasets.cll_toy(n_cells=240, n_genes=220, rng=0)["rna"]
    adata.obs["label"] = adata.obs["cd49d_true"].cat.rename_categories(["neg", "pos"])
    adata.obs.loc[adata.obs_names[:30], "label"] = None
    return adata


@pytest.fixture
def toy(_toy) -> AnnData:
    return _toy.copy()


class Spy(CellEstimator):
    """Writes down what it is given; predicts from the first gene."""

    seen: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, rng: int = 0) -> None:
        self.rng = rng

    def fit(self, adata: AnnData, y: pd.Series, groups: pd.Series | None = None) -> Self:
        self.seen.append({"train": adata.copy(), "y": y.copy(), "groups": groups, "rng": self.rng})
        self.classes_ = np.array([str(c) for c in y.cat.categories])
        return self

    def predict_proba(self, adata: AnnData) -> np.ndarray:
        self.seen[-1]["test"] = adata.copy()
        share = 1 / (1 + np.asarray(adata.X[:, :5].sum(1)).ravel())
        return np.stack([share, 1 - share], axis=1)


@pytest.fixture
def spied(toy):
    """What a model saw in each fold of leaving donors out."""
    Spy.seen.clear()
    toy.obsm["protein"] = pd.DataFrame({"CD49d": np.arange(toy.n_obs)}, index=toy.obs_names)
    toy.obs["secret"] = toy.obs["label"]
    sc_cll.tl.cross_validate(
        toy,
        labels_key="label",
        models={"spy": Spy()},
        n_repeats=1,
        protein_key="protein",
        metrics=["macro_f1"],
    )
    return toy, list(Spy.seen)


def test_a_fit_never_sees_test_donors(spied) -> None:
    cells, seen = spied
    assert len(seen) == cells.obs["donor"].nunique()
    for fold in seen:
        trained = set(fold["groups"])
        held = set(cells.obs["donor"].astype(str)) - trained
        assert len(held) == 1
        own = cells[cells.obs["donor"].isin(held)]
        assert not set(fold["train"].obs_names) & set(own.obs_names)
        assert set(fold["train"].obs_names) == set(cells.obs_names) - set(own.obs_names)
        labelled = own[own.obs["label"].notna()]
        np.testing.assert_array_equal(fold["test"].X.toarray(), labelled.X.toarray())


def test_a_model_is_handed_counts_labels_and_donors_and_nothing_else(spied) -> None:
    cells, seen = spied
    for fold in seen:
        train, test = fold["train"], fold["test"]
        assert list(train.obs.columns) == list(test.obs.columns) == []
        assert list(train.var.columns) == []
        assert (list(train.obsm), list(test.obsm)) == (["protein"], [])
        assert not train.uns
        assert not train.layers
        assert not set(test.obs_names) & set(cells.obs_names), "a name may tell the donor"
        np.testing.assert_array_equal(train.X.toarray(), cells[train.obs_names].X.toarray())
        expected = cells.obs.loc[train.obs_names, "label"]
        assert (
            fold["y"].astype(object).where(fold["y"].notna(), None).tolist()
            == expected.astype(object).where(expected.notna(), None).tolist()
        )
    assert len({fold["rng"] for fold in seen}) == len(seen), "another seed in every fold"


@pytest.mark.parametrize("scheme", ["leave_one_donor_out", "group_kfold", "random_cell"])
def test_every_labelled_cell_is_scored_once_per_repeat(toy, scheme) -> None:
    sc_cll.tl.cross_validate(
        toy,
        labels_key="label",
        models=["majority"],
        scheme=scheme,
        n_repeats=2,
        n_splits=3,
        metrics=["macro_f1"],
    )
    table = toy.obsm["cv_proba"]
    labelled = toy.obs["label"].notna().to_numpy()
    assert list(table) == [f"majority|{r}|{c}" for r in (0, 1) for c in ("neg", "pos")]
    assert table[labelled].notna().all(axis=None)
    assert table[~labelled].isna().all(axis=None)
    folds = toy.uns["cv"]["folds"]
    assert (folds.groupby("repeat")["n_test"].sum() == labelled.sum()).all()
    if scheme != "random_cell":
        for _, repeat in folds.groupby("repeat"):
            tested = ", ".join(repeat["test_donors"]).split(", ")
            assert sorted(tested) == sorted(toy.obs["donor"].astype(str).unique())
    assert toy.obsm["cv_pred"]["majority"].isna().to_numpy().tolist() == (~labelled).tolist()


def test_scores_are_those_of_the_out_of_fold_predictions(toy) -> None:
    sc_cll.tl.cross_validate(
        toy, labels_key="label", models=["gene_only"], n_repeats=1, n_bootstrap=20
    )
    known = toy.obs["label"].notna().to_numpy()
    truth = (toy.obs["label"] == "pos").to_numpy()[known]
    proba = toy.obsm["cv_proba"]["gene_only|0|pos"].to_numpy()[known]
    scores = toy.uns["cv"]["scores"].set_index("metric")["value"]
    assert scores["auroc"] == pytest.approx(roc_auc_score(truth, proba), abs=1e-6)
    assert scores["macro_f1"] == pytest.approx(
        f1_score(truth, proba > 0.5, average="macro"), abs=1e-12
    )
    assert toy.uns["cv"]["unit"] == "donor"
    assert toy.uns["cv"]["n_units"] == 10


def test_a_user_brings_a_classifier_of_scikit_learn(toy) -> None:
    models = {
        "mine": LogisticRegression(C=0.01, max_iter=500),
        "forest": RandomForestClassifier(20),
        "none": "majority",
    }
    sc_cll.tl.cross_validate(
        toy,
        labels_key="cd49d_true",
        models=models,
        scheme="group_kfold",
        n_repeats=1,
        metrics=["macro_f1", "auroc"],
    )
    found = sc_cll.get.evaluation(toy, metric="macro_f1").set_index("model")["estimate"]
    assert found["mine"] > found["none"] + 0.15
    assert set(found.index) == set(models)


def test_scbert_goes_through_the_same_folds(toy) -> None:
    arm = ScBERTEstimator(max_epochs=1, gene_embedding="learned", accelerator="cpu")
    sc_cll.tl.cross_validate(
        toy,
        labels_key="cd49d_true",
        models={"arm": arm, "gene_only": "gene_only"},
        scheme="group_kfold",
        n_splits=2,
        n_repeats=1,
        metrics=["auroc"],
        n_bootstrap=50,
    )
    differences = toy.uns["cv"]["differences"]
    assert "arm" in set(differences["model"]), (
        "scBERT is never the baseline, its linear part may be"
    )
    assert set(differences["reference"]) <= {"gene_only", "arm_linear"}
    assert set(toy.uns["cv"]["scores"]["model"]) == {
        "arm",
        "arm_network",
        "arm_linear",
        "gene_only",
    }
    joined, network, linear = (
        np.log(toy.obsm["cv_proba"][f"arm{p}|0|CD49d+"]) for p in ("", "_network", "_linear")
    )
    assert (joined <= np.maximum(network, linear) + 1e-4).all()
    assert toy.obsm["cv_proba"]["arm|0|CD49d+"].between(0, 1).all()


def test_all_of_it_survives_a_file(toy, tmp_path) -> None:
    toy.obs["three"] = pd.Categorical(
        np.array(["a/b", "low", "high"])[np.arange(toy.n_obs) % 3],
        ["a/b", "low", "high"],
        ordered=True,
    )
    sc_cll.tl.cross_validate(toy, labels_key="three", models=CHEAP, n_repeats=1, n_bootstrap=20)
    toy.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_frame_equal(back.obsm["cv_proba"], toy.obsm["cv_proba"])
    for name, value in toy.uns["cv"].items():
        if isinstance(value, pd.DataFrame):
            pd.testing.assert_frame_equal(
                back.uns["cv"][name],
                value,
                check_dtype=False,
                check_categorical=False,
                check_index_type=False,  # text is text, of whatever type
            )
    assert back.uns["cv"]["params"]["scheme"] == "leave_one_donor_out"
    assert "kappa_quadratic" in set(back.uns["cv"]["scores"].dropna()["metric"])


class Fickle(ClassifierMixin, BaseEstimator):
    """Counts its fits, and stops the run at one of them if told to."""

    n_fits: ClassVar[int] = 0
    stop_at: ClassVar[int | None] = None

    def __init__(self, random_state: int = 0) -> None:
        self.random_state = random_state

    def fit(self, X: Any, y: np.ndarray) -> Self:
        Fickle.n_fits += 1
        if Fickle.n_fits == Fickle.stop_at:
            raise KeyboardInterrupt
        self.classes_ = np.unique(y)
        self.noise_ = np.random.default_rng(self.random_state).normal(size=X.shape[1])
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        share = 1 / (1 + np.exp(np.asarray(X @ self.noise_) / 10))
        return np.stack([share, 1 - share], axis=1)


@pytest.fixture
def fickle():
    Fickle.n_fits, Fickle.stop_at = 0, None
    return Fickle


def test_a_finished_fold_is_not_computed_twice(toy, fickle, tmp_path) -> None:
    call = {
        "labels_key": "label",
        "models": {"m": Fickle()},
        "n_repeats": 1,
        "metrics": ["auroc"],
        "n_bootstrap": 10,
    }
    whole = sc_cll.tl.cross_validate(toy, **call, copy=True)
    n_folds, fickle.n_fits = fickle.n_fits, 0
    assert n_folds == 10

    fickle.stop_at = 7
    with pytest.raises(KeyboardInterrupt):
        sc_cll.tl.cross_validate(toy, **call, checkpoint=tmp_path / "folds")
    assert "cv" not in toy.uns
    assert "cv_proba" not in toy.obsm

    fickle.n_fits, fickle.stop_at = 0, None
    sc_cll.tl.cross_validate(toy, **call, checkpoint=tmp_path / "folds")
    assert fickle.n_fits == n_folds - 6, "six were finished"
    pd.testing.assert_frame_equal(toy.obsm["cv_proba"], whole.obsm["cv_proba"])

    fickle.n_fits = 0
    more = call | {"models": {"m": Fickle(), "majority": "majority"}}
    sc_cll.tl.cross_validate(toy, **more, checkpoint=tmp_path / "folds")
    assert fickle.n_fits == 0, "a further model leaves the others' folds as they are"


@pytest.mark.parametrize("change", ["data", "labels", "seed"])
def test_what_was_computed_for_something_else_is_not_taken_over(
    toy, fickle, tmp_path, change
) -> None:
    call = {
        "labels_key": "label",
        "models": {"m": Fickle()},
        "n_repeats": 1,
        "metrics": ["auroc"],
        "n_bootstrap": 10,
    }
    sc_cll.tl.cross_validate(toy, **call, checkpoint=tmp_path)
    fickle.n_fits = 0
    if change == "data":
        toy.X[0, 0] += 1
    elif change == "labels":
        toy.obs["label"] = (
            toy.obs["label"]
            .cat.rename_categories({"neg": "pos", "pos": "neg"})
            .cat.reorder_categories(["neg", "pos"])
        )
    sc_cll.tl.cross_validate(toy, **call, rng=int(change == "seed"), checkpoint=tmp_path)
    assert fickle.n_fits == 10


def test_the_same_seed_gives_the_same_numbers(toy) -> None:
    call = {
        "labels_key": "label",
        "models": ["logistic_sgd"],
        "n_repeats": 1,
        "metrics": ["auroc"],
        "n_bootstrap": 50,
    }
    first, second = (sc_cll.tl.cross_validate(toy, **call, copy=True) for _ in range(2))
    pd.testing.assert_frame_equal(first.obsm["cv_proba"], second.obsm["cv_proba"])
    pd.testing.assert_frame_equal(first.uns["cv"]["summary"], second.uns["cv"]["summary"])


def test_permuted_labels_are_at_chance(toy) -> None:
    """Labels without meaning: AUROC .5 on average; its intervals of 95 % hold .5, of four all or
    all but one.
    """
    found = []
    for seed in range(4):
        labels = np.random.default_rng(seed).permutation(np.arange(toy.n_obs) % 2).astype(str)
        toy.obs["random"] = pd.Categorical(labels)
        sc_cll.tl.cross_validate(
            toy,
            labels_key="random",
            models=["pseudobulk"],
            scheme="group_kfold",
            n_repeats=1,
            metrics=["auroc"],
        )
        found.append(toy.uns["cv"]["summary"].loc["0", ["low", "estimate", "high"]].to_numpy(float))
    low, estimate, high = np.transpose(found)
    assert abs(estimate.mean() - 0.5) < 0.08
    assert ((low < 0.5) & (high > 0.5)).sum() >= 3


def test_errors_say_which_model_and_fold(toy) -> None:
    class Broken(LogisticRegression):
        def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
            raise FloatingPointError("overflow")

    with pytest.raises(FloatingPointError) as caught:
        sc_cll.tl.cross_validate(toy, labels_key="label", models={"broken": Broken()}, n_repeats=1)
    assert "While cross-validating 'broken', repeat 1, fold 1." in caught.value.__notes__


# ---- bad input


def bad(cells: AnnData, **kwargs: Any) -> None:
    sc_cll.tl.cross_validate(
        cells, **{"labels_key": "label", "models": ["majority"], "n_repeats": 1} | kwargs
    )


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"labels_key": "cd"}, KeyError, "'cd' is not in adata.obs"),
        ({"donor_key": "person"}, KeyError, "'person' is not in adata.obs"),
        ({"donor_key": None}, ValueError, "give donor_key="),
        ({"models": ["xgboost"]}, KeyError, "'xgboost' is not in the models that go by a name"),
        ({"models": {"a|b": "majority"}}, ValueError, "any text without"),
        ({"models": []}, ValueError, "names no model"),
        ({"models": {"x": 3}}, TypeError, "classifier"),
        ({"scheme": "loo"}, ValueError, "scheme must be one of"),
        (
            {"scheme": "group_kfold", "n_splits": 50},
            ValueError,
            "at least 50 donors with labelled cells, found 10",
        ),
        ({"metrics": ["f1"]}, ValueError, "metrics must be one of"),
        ({"n_repeats": 0}, ValueError, "n_repeats must be"),
        ({"positive_from": 130.0}, ValueError, "positive_from must be"),
        ({"rng": 0.5}, ValueError, "rng must be"),
        ({"rng": np.random.default_rng(0)}, ValueError, "rng must be"),
        ({"layer": "counts"}, KeyError, "counts"),
        ({"protein_key": "protein"}, KeyError, "protein"),
    ],
)
def test_bad_arguments(toy, kwargs, error, message) -> None:
    with unchanged(toy), pytest.raises(error, match=message):
        bad(toy, **kwargs)


def test_resampled_rows_are_refused(toy) -> None:
    sc_cll.pp.split_donors(toy, "donor", labels_key="label")
    sc_cll.pp.balance(toy, "label", method="oversample")
    with (
        unchanged(toy),
        pytest.raises(ValueError, match=r"cells were added by resampling \(.*-copy1"),
    ):
        bad(toy)


@pytest.mark.parametrize("scheme", ["random_cell", "group_kfold"])
def test_copies_of_a_cell_on_both_sides_are_refused(toy, scheme) -> None:
    donors = toy.obs["donor"].astype(str).to_numpy()
    labelled = toy.obs["label"].notna().to_numpy()
    first = np.flatnonzero(labelled & (donors == "D01"))
    second = np.flatnonzero(labelled & (donors == "D02"))
    dense = toy.X.toarray()
    dense[second[:10]] = dense[first[:10]]
    copied = AnnData(dense, obs=toy.obs, var=toy.var)
    with (
        unchanged(copied),
        pytest.raises(ValueError, match="same counts as another one on the other side of a fold"),
    ):
        bad(copied, scheme=scheme, n_splits=10)


def test_one_class_or_logarithms_are_refused(toy) -> None:
    toy.obs["one"] = "a"
    with unchanged(toy), pytest.raises(ValueError, match="at least two classes"):
        bad(toy, labels_key="one")
    toy.X = toy.X.log1p()
    with unchanged(toy), pytest.raises(ValueError, match="counts"):
        bad(toy)


@pytest.mark.parametrize("scheme", ["leave_one_donor_out", "group_kfold", "random_cell"])
def test_a_model_that_ranks_nothing_is_at_chance(toy, scheme) -> None:
    """Pooled over folds, the share of positives that it was trained on would rank the folds, and
    the wrong way round.
    """
    metrics = ["macro_f1", "auroc", "auroc_within", "auprc", "brier"]
    call = {
        "labels_key": "label",
        "models": ["majority", "logistic_sgd"],
        "n_repeats": 2,
        "n_bootstrap": 40,
    }
    sc_cll.tl.cross_validate(toy, **call, scheme=scheme, n_splits=4, metrics=metrics)
    summary = sc_cll.get.evaluation(toy, model="majority").set_index("metric")
    assert (
        summary.loc[["auroc", "auroc_within"], ["estimate", "low", "high"]].eq(0.5).all(axis=None)
    )
    positive = (toy.obs["label"].dropna() == "pos").mean()
    assert summary.loc["auprc", "estimate"] == pytest.approx(positive)
    assert summary.loc["auroc", "note"].startswith(
        "the model says the same of every cell of a fold"
    )
    assert summary.loc["brier", "estimate"] > positive * (
        1 - positive
    )  # its probabilities are still those it gave
    axes = sc_cll.pl.evaluation(toy, show=False)
    assert [ax.get_title() for ax in axes] == ["macro-F1", "AUROC within donors"]
    dots = [c.get_offsets() for c in axes[1].collections if isinstance(c, PathCollection)]
    drawn = [float(one[0, 0]) for one in dots if len(one) == 1]
    assert len(drawn) == 2
    assert min(drawn) >= 0.5
