"""scBERT as an estimator: every arm, its parts, and what each kind of cell may be used for."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score

import scbert_cll as sb
from scbert_cll.estimators import ScBERTEstimator, scbert_variants, seeded
from scbert_cll.model import ScBERTClassifier

FAST = {"max_epochs": 1, "accelerator": "cpu"}
ARMS = sorted(scbert_variants())


@pytest.fixture(scope="session")
def _small(plant) -> AnnData:
    """The planted cells, fewer, with protein counts that tell the class."""
    adata = plant(n_cells=160)
    rng = np.random.default_rng(2)
    level = np.where(adata.obs["label"] == "pos", 60, 10)
    adata.obsm["protein"] = pd.DataFrame(
        {"CD49d": rng.poisson(level), "CD19": rng.poisson(40, adata.n_obs)}, index=adata.obs_names
    )
    return adata


@pytest.fixture
def train(_small) -> AnnData:
    return _small[~_small.obs["test"]].copy()


@pytest.fixture
def test(_small) -> AnnData:
    return _small[_small.obs["test"]].copy()


@pytest.fixture
def quick_vectors(monkeypatch) -> None:
    """Gene vectors of one epoch and few dimensions."""
    from scbert_cll.model import _gene_vectors

    monkeypatch.setattr(
        _gene_vectors,
        "SKIP_GRAM",
        _gene_vectors.SkipGram(epochs=1, n_dims=16, n_metacells=100),
    )


def arm(**kwargs) -> ScBERTEstimator:
    return ScBERTEstimator(**FAST | {"gene_embedding": "learned", "protein_key": None} | kwargs)


def fitted(cells: AnnData, /, **kwargs) -> ScBERTEstimator:
    return arm(**kwargs).fit(cells, cells.obs["label"], cells.obs["donor"])


def proba(cells: AnnData, test: AnnData, /, **kwargs) -> np.ndarray:
    return fitted(cells, **kwargs).predict_proba(test)


@pytest.fixture(scope="session")
def plain(_small) -> ScBERTEstimator:
    """A fitted one of the fast settings; not to be changed."""
    train = _small[~_small.obs["test"]].copy()
    return fitted(train)


@pytest.fixture(scope="session")
def default(_small) -> np.ndarray:
    """Predictions of the arm that the others are compared with, with protein and as quick vectors
    as theirs.
    """
    from scbert_cll.model import _gene_vectors

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            _gene_vectors,
            "SKIP_GRAM",
            _gene_vectors.SkipGram(epochs=1, n_dims=16, n_metacells=100),
        )
        train, test = (
            _small[(_small.obs["test"] == part).to_numpy()].copy() for part in (False, True)
        )
        return (
            ScBERTEstimator(**FAST)
            .fit(train, train.obs["label"], train.obs["donor"])
            .predict_proba(test)
        )


# --- arms
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARMS)
@pytest.mark.usefixtures("quick_vectors")
def test_every_arm_predicts_and_changes_something(train, test, default, name):
    model = scbert_variants()[name]
    model.set_params(**FAST, pretrain_epochs=min(model.pretrain_epochs, 1))
    model.fit(train, train.obs["label"], train.obs["donor"])
    found = model.predict_parts(test)
    assert model.classes_.tolist() == ["neg", "pos"]
    assert len(found) == 1 + len(model.parts)
    for one in found:
        assert one.shape == (test.n_obs, 2)
        assert (one >= 0).all()
        np.testing.assert_allclose(one.sum(1), 1, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(model.predict_proba(test), found[0])
    assert np.array_equal(found[0], default) == (name == "scbert"), (
        "an arm that changes nothing is no ablation"
    )
    assert roc_auc_score(test.obs["label"] == "pos", found[0][:, 1]) > 0.9


def test_an_arm_differs_from_the_default_as_its_name_says():
    default = ScBERTEstimator().get_params()
    changed = {
        name: {k for k, v in model.get_params().items() if v != default[k]}
        for name, model in scbert_variants().items()
    }
    assert changed.pop("scbert") == set()
    assert all(changed.values())
    assert changed["scbert_without_gene"] == {"exclude_genes"}
    assert scbert_variants("CD38")["scbert_without_gene"].exclude_genes == ["CD38"]
    assert changed["scbert_frozen"] == {"freeze", "pretrain_epochs"}


# --- the network and the linear part
# ------------------------------------------------------------------------------


def test_the_average_is_of_the_log_probabilities_of_its_parts(plain, test):
    whole, network, linear = plain.predict_parts(test)
    assert plain.parts == ("network", "linear")
    product = np.sqrt(network * linear)
    np.testing.assert_allclose(whole, product / product.sum(1, keepdims=True), atol=1e-6)


def test_none_is_the_network_of_the_average(train, test, plain):
    alone = fitted(train, combine="none")
    assert alone.parts == ("linear",)
    whole, linear = alone.predict_parts(test)
    np.testing.assert_array_equal(whole, plain.predict_parts(test)[1])
    np.testing.assert_array_equal(linear, plain.predict_parts(test)[2])


def test_a_residual_that_learns_nothing_is_the_linear_part(train, test):
    """At a learning rate of nothing the network adds nothing to the logistic regression."""
    model = fitted(train, combine="residual", train={"lr": 1e-12})
    assert model.parts == ("linear",)
    whole, linear = model.predict_parts(test)
    np.testing.assert_allclose(whole, linear, atol=1e-6)


def test_an_ensemble_is_the_mean_of_its_members(train, test, plain):
    together = fitted(train, n_members=2)
    other = fitted(train, rng=1)
    for whole, *members in zip(
        together.predict_parts(test),
        plain.predict_parts(test),
        other.predict_parts(test),
        strict=True,
    ):
        np.testing.assert_allclose(whole, np.mean(members, axis=0), atol=1e-7)


# --- what a prediction depends on
# ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick_vectors")
def test_the_seed_decides(train, test):
    call = {
        "gene_embedding": "gene2vec",
        "balance": "oversample",
        "pretrain_epochs": 1,
        "protein_key": "protein",
    }
    first, again, other = (proba(train, test, rng=seed, **call) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_a_prediction_belongs_to_the_cell(plain, test):
    whole = plain.predict_proba(test)
    np.testing.assert_allclose(plain.predict_proba(test[::-1])[::-1], whole, atol=1e-6)
    np.testing.assert_allclose(plain.predict_proba(test[5]), whole[[5]], atol=1e-6)
    np.testing.assert_allclose(plain.predict_proba(test[:, ::-1]), whole, atol=1e-6)
    bare = AnnData(test.X, obs=test.obs[[]], var=test.var[[]])  # neither labels nor protein
    np.testing.assert_array_equal(plain.predict_proba(bare), whole)


def test_fit_and_predict_leave_the_objects_alone(train, test):
    extra = train[:20].copy()
    before = [adata.copy() for adata in (train, test, extra)]
    proba(train, test, balance="oversample", pretrain_epochs=1, extra=extra, protein_key="protein")
    for adata, was in zip((train, test, extra), before, strict=True):
        np.testing.assert_array_equal(adata.X.toarray(), was.X.toarray())
        pd.testing.assert_frame_equal(adata.obs, was.obs)
        assert adata.uns.keys() == was.uns.keys()
        assert adata.layers.keys() == was.layers.keys()
        assert adata.varm.keys() == was.varm.keys()


def spoilt(adata: AnnData, cells: np.ndarray) -> AnnData:
    """The same with the counts of these cells handed to other genes, and other protein."""
    counts = adata.X.toarray()
    counts[cells] = counts[cells][:, ::-1]
    new = adata.copy()
    new.X = sparse.csr_matrix(counts)
    protein = new.obsm["protein"].to_numpy(copy=True)
    protein[cells] = protein[cells][:, ::-1]
    new.obsm["protein"] = pd.DataFrame(protein, new.obs_names, adata.obsm["protein"].columns)
    return new


@pytest.mark.parametrize(
    ("choices", "used"),
    [
        ({}, False),
        ({"balance": "smote"}, False),
        ({"combine": "residual"}, False),
        ({"pretrain_epochs": 1}, True),
        ({"protein_key": "protein"}, True),
        ({"gene_embedding": "gene2vec"}, True),
    ],
)
@pytest.mark.usefixtures("quick_vectors")
def test_unlabelled_cells_are_no_examples(train, test, choices, used):
    """They teach what needs no label: masked genes, proteins, co-expression; and nothing else."""
    other = spoilt(train, train.obs["label"].isna().to_numpy())
    assert np.array_equal(proba(train, test, **choices), proba(other, test, **choices)) == (
        not used
    )


@pytest.mark.parametrize("pretrain_epochs", [0, 1])
def test_excluded_genes_have_no_influence(train, test, pretrain_epochs):
    """Two of them change places, which leaves a cell's total as it is."""
    genes = ["ITGA4", train.var_names[0]]
    columns = train.var_names.get_indexer(genes)

    def swapped(adata: AnnData) -> AnnData:
        counts, new = adata.X.toarray(), adata.copy()
        counts[:, columns] = counts[:, columns[::-1]]
        new.X = sparse.csr_matrix(counts)
        return new

    call = {"exclude_genes": genes, "pretrain_epochs": pretrain_epochs}
    model = fitted(train, **call)
    for found, same in zip(
        model.predict_parts(test), model.predict_parts(swapped(test)), strict=True
    ):
        np.testing.assert_array_equal(found, same)
    np.testing.assert_array_equal(model.predict_proba(test), proba(swapped(train), test, **call))


def test_genes_that_are_not_excluded_have_influence(plain, test):
    counts, other = test.X.toarray(), test.copy()
    columns = test.var_names.get_indexer(["ITGA4", test.var_names[0]])
    counts[:, columns] = counts[:, columns[::-1]]
    other.X = sparse.csr_matrix(counts)
    for found, changed in zip(plain.predict_parts(test), plain.predict_parts(other), strict=True):
        assert not np.allclose(found, changed)


# --- vectors, further cells, balancing
# ----------------------------------------------------------------------------


@pytest.fixture
def set_up(monkeypatch) -> list[AnnData]:
    """Copies of what the classifiers were set up with."""
    seen: list[AnnData] = []
    original = ScBERTClassifier.setup_anndata.__func__

    def spy(cls, adata, **kwargs):
        seen.append(adata.copy())
        return original(cls, adata, **kwargs)

    monkeypatch.setattr(ScBERTClassifier, "setup_anndata", classmethod(spy))
    return seen


@pytest.mark.usefixtures("quick_vectors")
def test_shuffled_vectors_are_the_same_ones_at_other_genes(train, test, set_up):
    found = [proba(train, test, gene_embedding=kind) for kind in ("svd", "shuffled")]
    own, others = (adata.varm["gene2vec"] for adata in set_up)
    assert np.mean((own == others).all(1)) < 0.1
    np.testing.assert_array_equal(*(table[np.lexsort(table.T)] for table in (own, others)))
    assert not np.allclose(*found)


def test_further_cells_are_pretrained_on_and_nothing_else(train, test, plain):
    extra = sb.datasets.cll_toy(n_cells=200, n_genes=200, rng=9)["rna"][:60].copy()
    np.testing.assert_array_equal(proba(train, test, extra=extra), plain.predict_proba(test))
    without = proba(train, test, pretrain_epochs=1)
    more = proba(train, test, pretrain_epochs=1, extra=extra)
    assert not np.allclose(more, without)
    np.testing.assert_array_equal(
        proba(train, test, pretrain_epochs=1, extra=extra[:, ::-1].copy()), more
    )


def test_further_cells_may_lack_genes_and_share_names(train, test):
    extra = train[:40, 20:].copy()
    found = proba(train, test, pretrain_epochs=1, extra=extra)
    np.testing.assert_allclose(found.sum(1), 1)


@pytest.mark.parametrize("method", ["oversample", "undersample", "smote"])
def test_cells_that_validate_are_not_resampled(train, set_up, method):
    fitted(train, combine="residual", balance=method)
    cells = set_up[0].obs
    assert cells["is_synthetic"].any() == (method != "undersample")
    assert set(cells.loc[cells["is_synthetic"], "split"]) <= {"train"}
    counts = pd.crosstab(cells["label"], cells["split"])
    assert counts.loc["neg", "train"] == counts.loc["pos", "train"]
    assert counts.loc["neg", "val"] != counts.loc["pos", "val"], "as nature made them"
    kept = list(cells.index[cells["split"] == "val"])
    assert set(kept) <= set(train.obs_names)
    validating = set(train.obs.loc[kept, "donor"])
    whole = train.obs["donor"].isin(validating)
    assert set(train.obs_names[whole]) == set(kept), "whole donors validate"


@pytest.mark.parametrize("choices", [{}, {"balance": "oversample"}])
def test_all_donors_train_where_nothing_is_chosen_by_validation(train, set_up, choices):
    fitted(train, **choices)
    assert set(set_up[0].obs["split"]) == {"train"}
    assert set(train.obs_names) <= set(set_up[0].obs_names)


# --- unusual training parts
# ---------------------------------------------------------------------------------------


def test_a_class_without_a_training_cell_is_left_out(train, test):
    y = (
        train.obs["label"]
        .cat.rename_categories({"neg": "zero", "pos": "high"})
        .cat.add_categories(["low"])
    )
    model = arm().fit(train, y.cat.reorder_categories(["zero", "low", "high"]), train.obs["donor"])
    assert model.classes_.tolist() == ["zero", "high"]
    assert model.predict_proba(test).shape == (test.n_obs, 2)


@pytest.mark.parametrize("combine", ["average", "residual"])
@pytest.mark.parametrize("groups", ["none", "one"])
def test_donors_may_be_one_or_unknown(train, test, combine, groups):
    donors = None if groups == "none" else pd.Series("P1", train.obs_names)
    model = arm(combine=combine).fit(train, train.obs["label"], donors)
    np.testing.assert_allclose(model.predict_proba(test).sum(1), 1)


def test_a_class_of_one_cell_is_learned_from(train, test):
    y = train.obs["label"].copy()
    y[y.index[(y == "pos")][1:]] = np.nan
    for combine in ("average", "residual"):
        assert arm(combine=combine).fit(train, y, train.obs["donor"]).predict_proba(test).shape == (
            test.n_obs,
            2,
        )


# --- an estimator like any other
# ----------------------------------------------------------------------------------


def test_parameters_survive_clone_and_set_params(train):
    model = arm(
        n_members=2,
        exclude_genes=("ITGA4",),
        network={"dropout": 0.2},
        train={"lr": 1e-3},
        extra=train,
    )
    params = model.get_params()
    assert clone(model).get_params().keys() == params.keys()
    copied = clone(model).get_params()
    assert {k: v for k, v in copied.items() if k != "extra"} == {
        k: v for k, v in params.items() if k != "extra"
    }
    np.testing.assert_array_equal(copied["extra"].X.toarray(), train.X.toarray())
    again = ScBERTEstimator().set_params(**params).get_params()
    assert all(again[name] is value for name, value in params.items())
    assert seeded(model, 7).rng == 7
    assert model.rng == 0


def test_a_clone_is_unfitted_and_fits_to_the_same(train, test, plain):
    copy = clone(plain)
    with pytest.raises(NotFittedError, match="not fitted"):
        copy.predict_proba(test)
    found = copy.fit(train, train.obs["label"], train.obs["donor"]).predict_proba(test)
    np.testing.assert_array_equal(found, plain.predict_proba(test))


def test_choices_of_network_and_training_arrive(train):
    model = fitted(train, network={"n_hidden": 16, "n_heads": 2}, train={"batch_size": 64})
    assert model.members_[0].config.n_hidden == 16
    assert model.members_[0].module.training is False


# --- where it refuses
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choices", "error", "match"),
    [
        (
            {"balance": "adasyn"},
            ValueError,
            "balance must be one of 'none', 'weights', .*; found 'adasyn'",
        ),
        (
            {"gene_embedding": "word2vec"},
            ValueError,
            "gene_embedding must be one of .*; found 'word2vec'",
        ),
        (
            {"combine": "product"},
            ValueError,
            "combine must be one of 'none', 'average', 'residual'; found 'product'",
        ),
        ({"freeze": "all"}, ValueError, "freeze must be one of .*; found 'all'"),
        ({"binning": "rank"}, ValueError, "method must be one of .*; found 'rank'"),
        ({"n_members": 0}, ValueError, "n_members must be a whole number"),
        ({"n_members": 1.5}, ValueError, "n_members must be a whole number"),
        ({"pretrain_epochs": -1}, ValueError, "pretrain_epochs must be a whole number"),
        ({"max_epochs": 0}, ValueError, "max_epochs must be a whole number"),
        ({"exclude_genes": ["NOGENE"]}, KeyError, "'NOGENE' not in adata.var_names"),
        ({"network": {"n_hiden": 8}}, TypeError, "n_hiden"),
    ],
)
def test_bad_choices(train, choices, error, match):
    with pytest.raises(error, match=match):
        fitted(train, **choices)


def test_bad_cells(train, test, plain):
    y, donors = train.obs["label"], train.obs["donor"]
    with pytest.raises(ValueError, match=r"y has no label in any of the .* training cells"):
        arm().fit(train, pd.Series(np.nan, train.obs_names, dtype=object), donors)
    with pytest.raises(ValueError, match="y must have one value per cell"):
        arm().fit(train, y[::-1], donors)
    logged = train.copy()
    logged.X = train.X.log1p()
    with pytest.raises(ValueError, match=r"must hold raw counts.*log-transformed"):
        arm().fit(logged, y, donors)
    with pytest.raises(ValueError, match=r"must hold raw counts.*log-transformed"):
        arm(pretrain_epochs=1, extra=logged).fit(train, y, donors)
    strange = AnnData(train.X, var=pd.DataFrame(index=[f"OTHER{i}" for i in range(train.n_vars)]))
    with pytest.raises(ValueError, match="vocabulary genes"):
        arm(pretrain_epochs=1, extra=strange).fit(train, y, donors)
    with pytest.raises(KeyError, match=r"'ITGA4' not in adata.var_names"):
        plain.predict_proba(test[:, test.var_names != "ITGA4"])
    with pytest.raises(TypeError, match="Expected an AnnData, found ndarray"):
        plain.predict_proba(test.X.toarray())


def test_one_class_among_the_training_cells_is_all_it_predicts(train, test) -> None:
    train.obs.loc[train.obs["label"] == "pos", "label"] = np.nan
    found = fitted(train)
    assert list(found.classes_) == ["neg"]
    assert [part.tolist() for part in found.predict_parts(test)] == [[[1.0]] * test.n_obs] * 3
    assert set(found.predict(test)) == {"neg"}


def test_smote_with_few_cells_of_a_class_takes_fewer_neighbours(train, test) -> None:
    pos = np.flatnonzero(train.obs["label"] == "pos")
    train.obs.iloc[pos[3:], train.obs.columns.get_loc("label")] = np.nan
    assert proba(train, test, balance="smote").shape == (test.n_obs, 2)


def test_the_former_name_of_the_variants_still_works() -> None:
    with pytest.warns(FutureWarning, match="scbert_variants"):
        old = sb.estimators.scbert_arms("CD38")
    new = scbert_variants("CD38")
    assert {name: str(one.get_params()) for name, one in old.items()} == {
        name: str(one.get_params()) for name, one in new.items()
    }
