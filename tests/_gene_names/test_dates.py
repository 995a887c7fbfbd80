from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from scbert_cll import pp
from scbert_cll._gene_names import table
from scbert_cll._gene_names.dates import day_of, look_like_dates, with_symbols


@pytest.mark.parametrize(
    ("name", "day"),
    [
        ("1-Mar", (3, 1)),
        ("01-Mar", (3, 1)),
        ("Mar-01", (3, 1)),
        ("Sep-02", (9, 2)),
        ("2-Sep", (9, 2)),
        ("2-SEP", (9, 2)),
        ("2-Sept-2021", (9, 2)),
        ("1-Mar-1", (3, 1)),  # the second one, made unique
        ("1-Mar.1", (3, 1)),
        ("Mar-01-1", (3, 1)),
        ("1. Mrz", (3, 1)),
        ("01. März", (3, 1)),
        ("4-Okt", (10, 4)),
        ("2023-03-01", (3, 1)),
        ("2023-03-01 00:00:00", (3, 1)),
        ("01.09.2023", (9, 1)),
        ("9/1/2023", (9, 1)),
        ("44256", (3, 1)),
        ("44256.0", (3, 1)),
    ],
)
def test_dates_are_known(name: str, day: tuple[int, int]) -> None:
    assert day_of(name) == day


@pytest.mark.parametrize(
    "name",
    ["MARCH1", "SEPT2", "OCT-4", "DEC-1", "ITGA4", "13/13/2023", "2023-13-01", "1234", "", "7"],
)
def test_others_are_none(name: str) -> None:
    assert day_of(name) is None


def test_no_name_of_a_gene_is_a_date() -> None:
    names = list(table.shipped().approved)
    assert not look_like_dates(names).any()


def test_numbers_are_ids_where_there_are_many() -> None:
    symbols = [f"G{i}" for i in range(99)]
    assert look_like_dates([*symbols, "44256"]).tolist() == [False] * 99 + [True]
    assert not look_like_dates([str(i) for i in range(44000, 44100)]).any()


def test_what_a_date_may_have_been() -> None:
    assert with_symbols("1-Mar") == "1-Mar (MARCH1 or MARC1)"
    assert with_symbols("Sep-02") == "Sep-02 (SEPT2)"
    assert with_symbols("2023-01-31") == "2023-01-31"


def test_align_genes_names_them_and_guesses_none() -> None:
    names = ["ITGA4", "CD19", "1-Mar", "Sep-02", "44256"]
    var = pd.DataFrame(index=[*names, *(f"G{i}" for i in range(20))])
    adata = ad.AnnData(np.ones((3, 25), dtype=np.float32), var=var)
    vocabulary = ["ITGA4", "CD19", "MARCH1", "SEPT2"]
    with pytest.warns(UserWarning, match=r"3 genes are left out.*'1-Mar \(MARCH1 or MARC1\)'"):
        aligned = pp.align_genes(adata, vocabulary)
    assert aligned.uns["align_genes"]["dates"].tolist() == ["1-Mar", "Sep-02", "44256"]
    assert aligned.X.toarray().sum(axis=0).tolist() == [3, 3, 0, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pp.align_genes(adata[:, names[:2]], vocabulary).uns["align_genes"]["dates"].size == 0
