from __future__ import annotations

import pytest
from anndata import AnnData

import scbert_cll as sb
from scbert_cll import get


@pytest.fixture(scope="module")
def done() -> AnnData:
    adata = sb.datasets.planted_donors(n_genes=120, n_donors=5, rng=0)
    sb.tl.programmes(adata, groupby="label", ranks=(3, 4), n_permutations=19)
    return adata


def test_tables_are_copies_of_what_was_written(done: AnnData) -> None:
    table = get.programmes(done)
    assert table["programme"].tolist() == [f"P{i + 1}" for i in range(len(table))]
    assert table["n_donors"].is_monotonic_decreasing
    table["n_donors"] = 0
    assert (get.programmes(done)["n_donors"] >= 4).all()
    assert get.programmes(done, "donors")["donor"].tolist() == [f"D0{i}" for i in range(1, 6)]
    assert len(get.programmes(done, "null")) == 1


def test_one_programme_of_a_table(done: AnnData) -> None:
    genes = get.programmes(done, "top_genes", programme="P1")
    assert genes["weight"].is_monotonic_decreasing
    assert ", ".join(genes["gene"]) == get.programmes(done)["genes"][0]
    assert set(get.programmes(done, "usage", programme="P1")["class"]) == {"negative", "positive"}


def test_what_is_not_there_is_refused(done: AnnData) -> None:
    with pytest.raises(KeyError, match="'P99' is not in"):
        get.programmes(done, programme="P99")
    with pytest.raises(ValueError, match="'donors' is not by programme; leave programme out"):
        get.programmes(done, "donors", programme="P1")
    with pytest.raises(ValueError, match="table must be one of 'programmes'"):
        get.programmes(done, "genes")
    with pytest.raises(KeyError, match=r"Run tl.programmes first"):
        get.programmes(done, key="other")
