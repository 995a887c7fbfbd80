from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from imblearn.over_sampling import SMOTE
from scipy import sparse

import scbert_cll as sb
from tests._make import unchanged

RESAMPLING = ("oversample", "undersample", "smote")


def unequal_cells(n_neg=60, n_pos=15, n_other=40, *, seed=0, unlabelled=5):
    """Training cells of two classes, as many validation and test cells, and some without a label;
    counts in X.
    """
    rng = np.random.default_rng(seed)
    n = n_neg + n_pos + n_other + unlabelled
    counts = rng.poisson(0.6, (n, 30))
    adata = AnnData(sparse.csr_matrix(counts.astype(np.int32)))
    adata.obs_names = [f"cell{i}" for i in range(n)]
    label = np.array(
        ["CD49d-"] * n_neg
        + ["CD49d+"] * n_pos
        + list(rng.choice(["CD49d-", "CD49d+"], n_other))
        + [None] * unlabelled
    )
    split = np.array(
        ["train"] * (n_neg + n_pos)
        + list(rng.choice(["val", "test"], n_other))
        + ["train"] * unlabelled
    )
    adata.obs["cd49d"] = pd.Categorical(label, categories=["CD49d-", "CD49d+"], ordered=True)
    adata.obs["split"] = pd.Categorical(split, categories=["train", "val", "test"])
    adata.obs["donor"] = pd.Categorical(rng.choice(["A", "B"], n))
    adata.obs["n_genes"] = (counts > 0).sum(axis=1)
    adata.obs["is_b"] = rng.random(n) < 0.5
    adata.layers["counts"] = adata.X.copy()
    adata.layers["norm"] = np.log1p(adata.X.astype(np.float32))
    adata.obsm["protein"] = pd.DataFrame(
        rng.poisson(20, (n, 3)).astype(float),
        index=adata.obs_names,
        columns=["CD49d", "CD19", "CD5"],
    )
    adata.obsm["X_pca"] = rng.normal(size=(n, 4)).astype(np.float32)
    adata.uns["note"] = "kept"
    shuffle = rng.permutation(n)
    return adata[shuffle].copy()


def train_counts(adata):
    train = adata.obs[adata.obs["split"] == "train"]
    return train["cd49d"].value_counts().to_dict()


# --- weights
# --------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(n_neg=st.integers(1, 60), n_pos=st.integers(1, 60), seed=st.integers(0, 99))
def test_weights_make_the_groups_equal(n_neg, n_pos, seed):
    adata = unequal_cells(n_neg, n_pos, seed=seed)
    names, X = list(adata.obs_names), adata.X.copy()
    assert sb.pp.balance(adata, "cd49d") is None
    weight = adata.obs["balance_weight"]
    use = (adata.obs["split"] == "train") & adata.obs["cd49d"].notna()
    assert weight.dtype == np.float32
    assert weight[use].mean() == pytest.approx(1, rel=1e-5)
    assert (weight[~use] == 0).all()
    total = weight[use].groupby(adata.obs["cd49d"], observed=True).sum()
    assert total.iloc[0] == pytest.approx(total.iloc[1], rel=1e-4)
    assert list(adata.obs_names) == names
    assert (adata.X != X).nnz == 0


def test_weights_agree_with_scikit_learn():
    from sklearn.utils.class_weight import compute_sample_weight

    adata = unequal_cells()
    sb.pp.balance(adata, "cd49d")
    use = (adata.obs["split"] == "train") & adata.obs["cd49d"].notna()
    expected = compute_sample_weight("balanced", adata.obs["cd49d"][use].astype(str))
    np.testing.assert_allclose(adata.obs["balance_weight"][use], expected, rtol=1e-6)


def test_weights_over_combinations_of_columns():
    adata = unequal_cells()
    sb.pp.balance(adata, ["cd49d", "donor"])
    total = adata.obs.groupby(["cd49d", "donor"], observed=True)["balance_weight"].sum()
    assert len(total) == 4
    np.testing.assert_allclose(total, total.mean(), rtol=1e-5)
    assert set(adata.uns["balance"]["groups"].index) == {
        "CD49d- | A",
        "CD49d- | B",
        "CD49d+ | A",
        "CD49d+ | B",
    }


def test_weights_can_be_computed_anew():
    adata = unequal_cells()
    sb.pp.balance(adata, ["cd49d", "donor"])
    sb.pp.balance(adata, "cd49d")
    assert adata.obs["balance_weight"][adata.obs["balance_weight"] > 0].nunique() == 2
    assert adata.uns["balance"]["params"]["groupby"] == ["cd49d"]


# --- resampling
# --------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    n_neg=st.integers(7, 50),
    n_pos=st.integers(7, 50),
    seed=st.integers(0, 99),
    method=st.sampled_from(RESAMPLING),
)
def test_resampling_equalises_training_and_touches_nothing_else(n_neg, n_pos, seed, method):
    adata = unequal_cells(n_neg, n_pos, seed=seed)
    before = adata.copy()
    sb.pp.balance(adata, "cd49d", method=method, rng=seed)
    expected = min(n_neg, n_pos) if method == "undersample" else max(n_neg, n_pos)
    assert train_counts(adata) == {"CD49d-": expected, "CD49d+": expected}
    assert adata.obs_names.is_unique

    held = before.obs_names[(before.obs["split"] != "train") | before.obs["cd49d"].isna()]
    assert set(held) <= set(adata.obs_names)
    added = adata.obs["is_synthetic"].to_numpy()
    assert set(adata.obs.loc[added, "split"]) <= {"train"}
    assert adata.obs.loc[added, "cd49d"].notna().all()
    originals = adata[~added]
    assert list(originals.obs_names) == [
        n for n in before.obs_names if n in set(originals.obs_names)
    ]
    assert not added[: originals.n_obs].any()
    old = before[originals.obs_names]
    assert (originals.X != old.X).nnz == 0
    for key in ("counts", "norm"):
        assert (originals.layers[key] != old.layers[key]).nnz == 0
    pd.testing.assert_frame_equal(originals.obsm["protein"], old.obsm["protein"])
    pd.testing.assert_frame_equal(
        originals.obs[["cd49d", "split", "donor"]], old.obs[["cd49d", "split", "donor"]]
    )


@pytest.mark.parametrize("method", RESAMPLING)
def test_resampling_is_decided_by_the_seed(method):
    adata = unequal_cells(40, 20)
    a, b, c = (sb.pp.balance(adata, "cd49d", method=method, rng=r, copy=True) for r in (0, 0, 1))
    assert list(a.obs_names) == list(b.obs_names)
    assert (a.X != b.X).nnz == 0
    assert list(a.obs_names) != list(c.obs_names) or (a.X != c.X).nnz > 0


@pytest.mark.parametrize("method", RESAMPLING)
def test_rows_change_in_place_with_everything_that_belongs_to_them(method, tmp_path):
    adata = unequal_cells()
    same = adata
    copied = sb.pp.balance(adata, "cd49d", method=method, copy=True)
    assert "is_synthetic" not in adata.obs
    assert sb.pp.balance(adata, "cd49d", method=method) is None
    assert adata is same
    n = adata.n_obs
    assert n == copied.n_obs == len(adata.obs)
    assert adata.X.shape == adata.layers["norm"].shape == (n, 30)
    assert adata.X.dtype == np.int32
    assert adata.layers["norm"].dtype == np.float32
    assert adata.obsm["protein"].index.equals(adata.obs_names)
    assert adata.obsm["X_pca"].shape == (n, 4)
    assert adata.uns["note"] == "kept"
    groups = adata.uns["balance"]["groups"]
    assert groups["n_before"].to_dict() == {"CD49d-": 60, "CD49d+": 15}
    assert groups["n_after"].to_dict() == train_counts(adata)
    adata.write_h5ad(tmp_path / "x.h5ad")
    back = ad.read_h5ad(tmp_path / "x.h5ad")
    assert back.obs["is_synthetic"].to_numpy().tolist() == adata.obs["is_synthetic"].tolist()
    assert back.uns["balance"]["params"]["method"] == method


def test_oversampled_rows_are_copies_of_training_cells():
    adata = unequal_cells()
    sb.pp.balance(adata, "cd49d", method="oversample")
    added = adata[adata.obs["is_synthetic"].to_numpy()]
    parents = adata[[name.rsplit("-copy", 1)[0] for name in added.obs_names]]
    assert (added.X != parents.X).nnz == 0
    assert (added.obs["donor"].to_numpy() == parents.obs["donor"].to_numpy()).all()
    assert (parents.obs["split"] == "train").all()
    assert (parents.obs["cd49d"] == "CD49d+").all()


# --- SMOTE
# --------------------------------------------------------------------------------------------------


def test_smote_is_that_of_imbalanced_learn():
    """With coordinates of our choice, the new rows of a continuous matrix are imbalanced-learn's
    own.
    """
    adata = unequal_cells()
    adata.X = sparse.csr_matrix(np.log1p(adata.X.toarray() * 0.37))
    adata.obsm["space"] = adata.X.toarray()
    use = ((adata.obs["split"] == "train") & adata.obs["cd49d"].notna()).to_numpy()
    sb.pp.balance(adata, "cd49d", method="smote", use_rep="space", rng=3)
    seed = int(np.random.default_rng(3).integers(2**31 - 1))
    originals = ~adata.obs["is_synthetic"].to_numpy()
    expected, _ = SMOTE(random_state=seed).fit_resample(
        adata.obsm["space"][originals][use], adata.obs["cd49d"][originals][use].astype(str)
    )
    np.testing.assert_allclose(adata.X[~originals].toarray(), expected[use.sum() :], atol=1e-9)


def test_smote_thins_counts_around_the_interpolated_point():
    """Whole numbers, with the mean and variance of binomial thinning by the parents' shares."""
    adata = unequal_cells(300, 20)
    adata.X = sparse.csr_matrix((adata.X.toarray() * 40).astype(np.float32))
    adata.obsm["share"] = 0.5 * np.eye(adata.n_obs)  # interpolated, it tells each parent's share
    sb.pp.balance(adata, "cd49d", method="smote", use_rep="X_pca")
    added = adata.obs["is_synthetic"].to_numpy()
    made, old, share = (
        adata.X[added].toarray(),
        adata.X[~added].toarray(),
        2 * adata.obsm["share"][added],
    )
    assert adata.X.dtype == np.float32
    assert (made == np.trunc(made)).all()
    assert ((share > 0).sum(axis=1) <= 2).all()
    np.testing.assert_allclose(share.sum(axis=1), 1)
    parents = adata.obs_names[~added][(share > 0).any(axis=0)]
    assert (adata.obs.loc[parents, "cd49d"] == "CD49d+").all()
    assert (adata.obs.loc[parents, "split"] == "train").all()
    norm = adata.layers["norm"].toarray()
    np.testing.assert_allclose(norm[added], share @ norm[~added], atol=1e-5)
    mean, variance = share @ old, (share * (1 - share)) @ old
    assert (made[variance < 1e-9] == mean[variance < 1e-9].round()).all()
    z = ((made - mean) / np.sqrt(np.where(variance < 1e-9, 1, variance)))[variance > 1]
    assert z.mean() == pytest.approx(0, abs=0.05)
    assert z.std() == pytest.approx(1, abs=0.05)


def test_smote_interpolation_is_not_cut_off_in_integer_matrices():
    adata = unequal_cells()
    adata.obsm["protein"] = adata.obsm["protein"].astype(int)
    sb.pp.balance(adata, "cd49d", method="smote")
    added = adata.obs["is_synthetic"].to_numpy()
    positive = (~added) & (
        (adata.obs["cd49d"] == "CD49d+") & (adata.obs["split"] == "train")
    ).to_numpy()
    # truncation would lower the mean by half a count
    assert adata.X[added].mean() == pytest.approx(adata.X[positive].mean(), rel=0.15)


def test_a_donor_of_both_parents_is_kept_and_otherwise_missing():
    adata = unequal_cells()
    sb.pp.balance(adata, "cd49d", method="smote")
    added = adata.obs[adata.obs["is_synthetic"]]
    assert added["donor"].notna().any()
    assert added["donor"].isna().any()
    assert (added["cd49d"] == "CD49d+").all()
    within = unequal_cells(60, 40)
    sb.pp.balance(within, ["cd49d", "donor"], method="smote")
    assert within.obs["donor"].notna().all()


def test_neighbours_come_from_the_named_space():
    adata = unequal_cells(60, 14)
    train_pos = ((adata.obs["cd49d"] == "CD49d+") & (adata.obs["split"] == "train")).to_numpy()
    far = np.zeros((adata.n_obs, 1))
    far[np.flatnonzero(train_pos)[:7]] = 100.0
    adata.obsm["side"] = far + np.random.default_rng(0).normal(size=far.shape) * 0.01
    sb.pp.balance(adata, "cd49d", method="smote", use_rep="side")
    side = adata.obsm["side"][adata.obs["is_synthetic"].to_numpy()]
    assert ((np.abs(side) < 1) | (np.abs(side - 100) < 1)).all()


# --- where it refuses
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["weights", *RESAMPLING])
def test_no_split_says_why(method):
    adata = unequal_cells()
    del adata.obs["split"]
    match = r"after the split.*copies of the same cell into training and test.*pp\.split_donors"
    with unchanged(adata), pytest.raises(KeyError, match=match):
        sb.pp.balance(adata, "cd49d", method=method)


def test_a_class_smaller_than_the_neighbours_is_named():
    adata = unequal_cells(40, 5)
    match = r"k_neighbors=5 .* at least 6 training cells; .*'CD49d\+' with 5.*method='weights'"
    with unchanged(adata), pytest.raises(ValueError, match=match):
        sb.pp.balance(adata, "cd49d", method="smote")
    sb.pp.balance(adata, "cd49d", method="smote", k_neighbors=4)
    assert train_counts(adata) == {"CD49d-": 40, "CD49d+": 40}


@pytest.mark.parametrize("method", RESAMPLING)
def test_twice_is_refused(method):
    adata = unequal_cells()
    sb.pp.balance(adata, "cd49d", method=method)
    for again in ("weights", *RESAMPLING):
        with unchanged(adata), pytest.raises(ValueError, match=r"balanced already.*'is_synthetic'"):
            sb.pp.balance(adata, "cd49d", method=again)
    weighted = unequal_cells()
    sb.pp.balance(weighted, "cd49d")
    match = r"balanced already.*'balance_weight'"
    with unchanged(weighted), pytest.raises(ValueError, match=match):
        sb.pp.balance(weighted, "cd49d", method=method)


def test_bins_graphs_and_raw_are_refused_where_new_cells_would_falsify_them():
    adata = unequal_cells()
    adata.layers["binned"] = adata.X.copy()
    adata.uns["binned"] = {"edges": [0, 1], "params": {}}
    match = r"adata\.layers\['binned'\] holds bins.*pp\.bin_expression"
    with unchanged(adata), pytest.raises(ValueError, match=match):
        sb.pp.balance(adata, "cd49d", method="smote")
    sb.pp.balance(adata, "cd49d", method="oversample")
    assert adata.layers["binned"].shape == adata.shape

    graph = unequal_cells()
    graph.obsp["connectivities"] = sparse.eye_array(graph.n_obs, format="csr")
    for method in ("oversample", "smote"):
        with unchanged(graph), pytest.raises(ValueError, match=r"obsp holds 'connectivities'"):
            sb.pp.balance(graph, "cd49d", method=method)
    sb.pp.balance(graph, "cd49d", method="undersample")
    assert graph.obsp["connectivities"].shape == (graph.n_obs, graph.n_obs)

    raw = unequal_cells()
    raw.raw = raw.copy()
    with unchanged(raw), pytest.raises(ValueError, match=r"adata\.raw is set"):
        sb.pp.balance(raw, "cd49d", method="smote")
    sb.pp.balance(raw, "cd49d", method="oversample")
    assert raw.raw.shape == raw.shape


@pytest.mark.parametrize(
    ("args", "kwargs", "error", "match"),
    [
        (("cd38",), {}, KeyError, "'cd38' is not in adata.obs; it has 'cd49d'"),
        ((["cd49d", "batch"],), {}, KeyError, "'batch' is not in adata.obs"),
        (
            ("cd49d",),
            {"method": "adasyn"},
            ValueError,
            "method must be one of 'weights', 'oversample', 'undersample', 'smote'",
        ),
        (
            ("cd49d",),
            {"method": "smote", "use_rep": "X_umap"},
            KeyError,
            "'X_umap' is not in adata.obsm; it has",
        ),
        (
            ("cd49d",),
            {"split_key": "donor"},
            ValueError,
            "may hold 'train', 'val', 'test'; found also 'A', 'B'",
        ),
        (("empty",), {}, ValueError, "No training cell has a value in adata.obs"),
        (("one",), {}, ValueError, "at least two classes among the training cells; found 'x'"),
    ],
)
def test_bad_input(args, kwargs, error, match):
    adata = unequal_cells()
    adata.obs["one"], adata.obs["empty"] = "x", np.nan
    with unchanged(adata), pytest.raises(error, match=match):
        sb.pp.balance(adata, *args, **kwargs)


@pytest.mark.parametrize("method", ["weights", *RESAMPLING])
def test_a_view_is_refused(method):
    adata = unequal_cells()
    view = adata[: adata.n_obs - 1]
    with pytest.raises(ValueError, match="view of another AnnData"):
        sb.pp.balance(view, "cd49d", method=method)
    assert view.is_view
    assert sb.pp.balance(view, "cd49d", method=method, copy=True).n_obs > 0
