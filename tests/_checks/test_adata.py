"""Checks of an AnnData and its columns."""

from __future__ import annotations

import mudata as md
import numpy as np
import pandas as pd
import pytest

from scbert_cll import _checks
from tests._make import counted


def test_anndata() -> None:
    adata = counted()
    assert _checks.adata.anndata(adata) is adata
    assert _checks.adata.anndata(adata[:2]).is_view  # looking is allowed, writing is another check
    with pytest.raises(TypeError, match=r"Expected an AnnData, found DataFrame\.$"):
        _checks.adata.anndata(pd.DataFrame())


def test_anndata_points_from_mudata_to_a_modality() -> None:
    with pytest.raises(TypeError, match=r'found MuData. Take one modality, e.g. mdata\["rna"\]'):
        _checks.adata.anndata(md.MuData({"rna": counted()}))


@pytest.mark.filterwarnings("ignore:.*names are not unique:UserWarning")
def test_anndata_with_names_twice() -> None:
    adata = counted()
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
    adata = counted()
    assert _checks.adata.target(adata, copy=False) is adata
    assert _checks.adata.target(adata, copy=True) is not adata
    view = adata[:2]
    assert not _checks.adata.target(view, copy=True).is_view
    with pytest.raises(ValueError, match=r"is a view of another AnnData.*adata.copy\(\)"):
        _checks.adata.target(view, copy=False)


def test_obs_column() -> None:
    adata = counted()
    adata.obs["cd49d"] = pd.Categorical(["a", None, "b", None])
    assert _checks.adata.obs_column(adata, "cd49d").isna().sum() == 2
    with pytest.raises(
        ValueError, match=r"adata.obs\['cd49d'\] is missing for 2 cells \('c1', 'c3'\)"
    ):
        _checks.adata.obs_column(adata, "cd49d", allow_missing=False)
    with pytest.raises(KeyError, match=r"'donor' is not in adata.obs; it has 'cd49d'"):
        _checks.adata.obs_column(adata, "donor")


def test_no_empty_cells() -> None:
    _checks.adata.no_empty_cells(np.ones(4), counted(), "adata.X")
    with pytest.raises(
        ValueError, match=r"2 cells have no counts in adata.X \('c0', 'c2'\).*filter_cells"
    ):
        _checks.adata.no_empty_cells(np.array([0, 1, 0, 5]), counted(), "adata.X")


def test_split() -> None:
    adata = counted()
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
    adata = counted()
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
