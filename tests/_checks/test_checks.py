"""The sentences of the common checks; those of one function are tested with that function."""

from __future__ import annotations

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scbert_cll import _checks
from scbert_cll._checks.words import choice, key_in, listed, number_in


def made(n_cells: int = 4, n_genes: int = 3) -> ad.AnnData:
    counts = sparse.csr_matrix(
        np.arange(n_cells * n_genes, dtype=np.float32).reshape(n_cells, n_genes)
    )
    obs = pd.DataFrame(index=[f"c{i}" for i in range(n_cells)])
    return ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(n_genes)]))


@pytest.mark.parametrize(
    ("items", "n", "expected"),
    [
        ([], 5, "none"),
        (["a"], 5, "'a'"),
        ("abc", 3, "'a', 'b', 'c'"),
        ("abcd", 3, "'a', 'b', 'c' and 1 more"),
        (iter([1, 2]), 1, "'1' and 1 more"),
    ],
)
def test_listed(items: object, n: int, expected: str) -> None:
    assert listed(items, n) == expected


# --- the object


def test_anndata() -> None:
    adata = made()
    assert _checks.adata.anndata(adata) is adata
    assert _checks.adata.anndata(adata[:2]).is_view  # looking is allowed, writing is another check
    with pytest.raises(TypeError, match=r"Expected an AnnData, found DataFrame\.$"):
        _checks.adata.anndata(pd.DataFrame())


def test_anndata_points_from_mudata_to_a_modality() -> None:
    with pytest.raises(TypeError, match=r'found MuData. Take one modality, e.g. mdata\["rna"\]'):
        _checks.adata.anndata(md.MuData({"rna": made()}))


@pytest.mark.filterwarnings("ignore:.*names are not unique:UserWarning")
def test_anndata_with_names_twice() -> None:
    adata = made()
    adata.var_names = ["g0", "g0", "g2"]
    with pytest.raises(
        ValueError,
        match=r"var_names must be unique; found more than once: 'g0'.*pp.align_genes to sum them",
    ):
        _checks.adata.anndata(adata)
    assert _checks.adata.anndata(adata, repeated_genes=True) is adata
    adata.obs_names = ["c0", "c1", "c1", "c1"]
    with pytest.raises(
        ValueError,
        match=r"obs_names must be unique; found more than once: 'c1'.*obs_names_make_unique",
    ):
        _checks.adata.anndata(adata, repeated_genes=True)


def test_target() -> None:
    adata = made()
    assert _checks.adata.target(adata, copy=False) is adata
    assert _checks.adata.target(adata, copy=True) is not adata
    view = adata[:2]
    assert not _checks.adata.target(view, copy=True).is_view
    with pytest.raises(ValueError, match=r"is a view of another AnnData.*adata.copy\(\)"):
        _checks.adata.target(view, copy=False)


# --- words and numbers


def test_choice() -> None:
    assert choice("a", ("a", "b"), "method") == "a"
    with pytest.raises(ValueError, match="method must be one of 'a', 'b'; found 'c'"):
        choice("c", ("a", "b"), "method")


@pytest.mark.parametrize("value", [0, 11, np.nan, "5", None, True])
def test_number_in(value: object) -> None:
    for good in (1, 10, 2.5, np.float32(3), np.int64(4)):
        number_in(good, "n", 1, 10)
    with pytest.raises(ValueError, match="n must be a number from 1 to 10; found"):
        number_in(value, "n", 1, 10)


def test_whole_number_in() -> None:
    number_in(np.int32(4), "n", 1, 10, whole=True)
    with pytest.raises(ValueError, match=r"n must be a whole number from 1 to 10; found 4.0"):
        number_in(4.0, "n", 1, 10, whole=True)


def test_key_in_lists_what_is_there() -> None:
    adata = made()
    with pytest.raises(KeyError, match=r"'raw' is not in adata.layers; it has none"):
        key_in("raw", adata.layers, "adata.layers")
    adata.layers["counts"] = adata.X
    with pytest.raises(KeyError, match=r"'raw' is not in adata.layers; it has 'counts'. Make it."):
        key_in("raw", adata.layers, "adata.layers", "Make it.")
    key_in("counts", adata.layers, "adata.layers")


def test_obs_column() -> None:
    adata = made()
    adata.obs["cd49d"] = pd.Categorical(["a", None, "b", None])
    assert _checks.adata.obs_column(adata, "cd49d").isna().sum() == 2
    with pytest.raises(
        ValueError, match=r"adata.obs\['cd49d'\] is missing for 2 cells \('c1', 'c3'\)"
    ):
        _checks.adata.obs_column(adata, "cd49d", allow_missing=False)
    with pytest.raises(KeyError, match=r"'donor' is not in adata.obs; it has 'cd49d'"):
        _checks.adata.obs_column(adata, "donor")


# --- matrices


@pytest.mark.parametrize(
    "form",
    [
        sparse.csr_matrix,
        sparse.csc_matrix,
        sparse.coo_matrix,
        sparse.csr_array,
        sparse.csc_array,
        np.asarray,
    ],
)
@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", "u1", "?"])
def test_matrix_takes_every_form(form: object, dtype: str) -> None:
    values = np.array([[0, 1, 2], [3, 0, 0]]).astype(dtype)
    adata = made(2, 3)
    adata.layers["it"] = form(values) if form is not sparse.coo_matrix else form(values).tocsr()
    csr = _checks.counts.counts(adata, "it")
    assert isinstance(csr, sparse.csr_matrix)
    assert csr.has_canonical_format
    np.testing.assert_array_equal(csr.toarray(), values)


def test_matrix_leaves_an_untidy_matrix_as_it_is() -> None:
    untidy = sparse.csr_matrix(
        (np.array([1.0, 2, 4]), np.array([2, 0, 2]), np.array([0, 3, 3])), shape=(2, 3)
    )
    adata = made(2, 3)
    adata.X = untidy
    before = adata.X.data.copy(), adata.X.indices.copy()
    assert _checks.counts.matrix(adata, None).toarray().tolist() == [[2, 0, 5], [0, 0, 0]]
    np.testing.assert_array_equal(adata.X.data, before[0])
    np.testing.assert_array_equal(adata.X.indices, before[1])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (-2.0, r"adata.X holds negative values, first -2 \(cell 'c1', gene 'g2'\)"),
        (np.nan, r"adata.X holds NaN or infinite values, first nan \(cell 'c1', gene 'g2'\)"),
        (np.inf, r"adata.X holds NaN or infinite values, first inf"),
        (-np.inf, r"adata.X holds NaN or infinite values, first -inf"),
        (
            0.5,
            (
                r"adata.X must hold raw counts \(whole numbers\); first other value: 0.5 \(cell "
                r"'c1', gene 'g2'\)"
            ),
        ),
    ],
)
def test_bad_values_are_named(value: float, message: str) -> None:
    adata = made()
    adata.X.data[adata.X.data == 5] = value
    with pytest.raises(ValueError, match=message):
        _checks.counts.counts(adata, None)
    adata.layers["it"], adata.X = adata.X, np.ones((4, 3))
    with pytest.raises(ValueError, match=r"adata.layers\['it'\]"):
        _checks.counts.counts(adata, "it")


def test_counts_recognises_logarithms_and_names_the_layers() -> None:
    adata = made()
    adata.layers["counts"] = adata.X.copy()
    adata.X = np.log1p(adata.X)
    with pytest.raises(ValueError, match=r"looks log-transformed.*this object has layers 'counts'"):
        _checks.counts.counts(adata, None)
    adata.X = adata.X * 1000
    with pytest.raises(ValueError, match="raw counts") as error:
        _checks.counts.counts(adata, None)
    assert "log-transformed" not in str(error.value)
    adata.uns["log1p"] = {}
    with pytest.raises(ValueError, match="looks log-transformed"):
        _checks.counts.counts(adata, None)


def test_are_whole_sees_the_last_value_of_many() -> None:
    values = np.ones(2**16 + 3)
    assert _checks.counts.are_whole(values)
    values[-1] = 1.5
    assert not _checks.counts.are_whole(values)
    assert _checks.counts.are_whole(np.arange(3))


def test_matrix_without_x() -> None:
    adata = ad.AnnData(obs=made().obs, var=made().var)
    with pytest.raises(ValueError, match=r"adata.X is empty \(None\)"):
        _checks.counts.matrix(adata, None)


def test_no_empty_cells() -> None:
    _checks.adata.no_empty_cells(np.ones(4), made(), "adata.X")
    with pytest.raises(
        ValueError, match=r"2 cells have no counts in adata.X \('c0', 'c2'\).*filter_cells"
    ):
        _checks.adata.no_empty_cells(np.array([0, 1, 0, 5]), made(), "adata.X")


# --- split and classes


def test_split() -> None:
    adata = made()
    adata.obs["split"] = pd.Categorical(["train", "train", "test", None])
    assert (_checks.adata.split(adata, "split", need=("train", "test")) == "train").sum() == 2
    with pytest.raises(
        ValueError, match=r"adata.obs\['split'\] has no cell in 'val'; it holds 'train', 'test'"
    ):
        _checks.adata.split(adata, "split", need=("train", "val"))
    with pytest.raises(
        KeyError, match=r"'fold' is not in adata.obs; it has 'split'. Make one with pp.split_donors"
    ):
        _checks.adata.split(adata, "fold")
    adata.obs["split"] = ["train", "training", "test", "val"]
    with pytest.raises(ValueError, match="may hold 'train', 'val', 'test'; found also 'training'"):
        _checks.adata.split(adata, "split")


def test_classes() -> None:
    labels = pd.Series(pd.Categorical(["b", "a", None], categories=["b", "a", "unused"]))
    assert _checks.adata.classes(labels, "cd49d") == ["b", "a"]
    with pytest.raises(
        ValueError, match=r"adata.obs\['cd49d'\] needs at least two classes in training; found 'b'"
    ):
        _checks.adata.classes(labels[:1], "cd49d", within=" in training")


def test_cells() -> None:
    adata = made()
    adata.obs["good"] = [True, False, True, False]
    adata.obs["split"] = ["test", "train", "val", "train"]
    assert _checks.adata.cells(adata, None, "cells").tolist() == [True] * 4
    assert _checks.adata.cells(adata, "good", "cells").tolist() == [True, False, True, False]
    assert _checks.adata.cells(adata, "split", "cells").tolist() == [False, True, False, True]
    assert _checks.adata.cells(adata, adata.obs["good"], "cells").tolist() == [
        True,
        False,
        True,
        False,
    ]
    with pytest.raises(
        ValueError,
        match=r"cells must choose at least one cell.* each of the 4 cells.*shape \(3,\), 3 true",
    ):
        _checks.adata.cells(adata, np.ones(3, dtype=bool), "cells")
