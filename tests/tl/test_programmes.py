"""tl.programmes finds what was planted and ties it to the class, and nothing where nothing is."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import optimize, sparse, stats

import scbert_cll as sc_cll
from scbert_cll._signature.programme_usage import ByClass
from tests._make import unchanged

DIVIDING = [
    *("MKI67", "TOP2A", "CDK1", "CCNB2", "BIRC5", "TPX2"),
    *("CENPF", "AURKA", "BUB1", "TTK", "NUF2", "PCNA"),
]
SMALL = {"n_genes": 150, "n_donors": 6}
QUICK = {"ranks": (4, 6), "n_permutations": 99}


def planted(rng: int = 0, **kind) -> AnnData:
    return sc_cll.datasets.planted_donors(**SMALL | kind, rng=rng)


def shuffled(adata: AnnData, rng: int = 0) -> AnnData:
    """The counts of every gene permuted among the cells of each donor."""
    random, counts = np.random.default_rng(rng), adata.X.toarray()
    for donor in adata.obs["donor"].unique():
        rows = np.flatnonzero(adata.obs["donor"] == donor)
        counts[rows] = random.permuted(counts[rows], axis=0)
    adata.X = sparse.csr_matrix(counts)
    return adata


def with_block(adata: AnnData, donors: list[str], names: list[str], rng: int = 0) -> AnnData:
    """Half of the cells of these donors express twelve genes, under these names, six times more."""
    random, counts = np.random.default_rng(rng), adata.X.toarray()
    level = counts.mean(axis=0)
    columns = np.argsort(-level)[20 : 20 + len(names)]
    on = adata.obs["donor"].isin(donors).to_numpy() & (random.random(adata.n_obs) < 0.5)
    counts[np.ix_(on, columns)] = random.poisson(6 * level[columns] + 1, (on.sum(), len(columns)))
    adata.X = sparse.csr_matrix(counts)
    genes = adata.var_names.to_numpy(dtype=object)
    genes[columns] = names
    adata.var_names = genes
    return adata


@pytest.fixture(scope="module")
def found() -> AnnData:
    adata = planted()
    sc_cll.tl.programmes(adata, groupby="label", **QUICK)
    return adata


def best(adata: AnnData) -> pd.Series:
    """The programme with most of the genes that go up with the class."""
    table, up = sc_cll.get.programmes(adata), set(adata.var_names[adata.var["truth"] > 0])
    recall = [len(up & set(names.split(", "))) / len(up) for names in table["genes"]]
    return table.iloc[int(np.argmax(recall))].copy().set_axis(table.columns) if recall else None


def test_a_planted_programme_is_found_and_tied(found: AnnData) -> None:
    row, up = best(found), set(found.var_names[found.var["truth"] > 0])
    assert len(up & set(row["genes"].split(", "))) >= 0.75 * len(up)
    assert row["tied"]
    assert row["n_donors"] >= 5
    assert row["low"] > 0
    assert row["stability"] > row["null"]
    assert row["n_same_sign"] == 6
    record = found.uns["programmes"]
    assert record["reason"] == ""
    assert record["n_donors"] == 6
    on = pd.Series(found.obsm["programmes"][row["programme"]].to_numpy(), found.obs_names)
    of_class = on.groupby(found.obs["label"], observed=True).mean()
    assert of_class["positive"] > 1.3 * of_class["negative"]


def test_the_evidence_is_a_paired_t_over_donors(found: AnnData) -> None:
    usage = sc_cll.get.programmes(found, "usage")
    by_class = usage.pivot_table("log2_usage", "programme", ["class", "donor"], observed=True)
    difference = by_class["positive"] - by_class["negative"]
    table = sc_cll.get.programmes(found).set_index("programme").loc[difference.index]
    other = stats.ttest_1samp(difference, 0, axis=1)
    limits = other.confidence_interval(0.95)
    for column, values in {
        "log2_fc": difference.mean(axis=1),
        "t": other.statistic,
        "p": other.pvalue,
        "low": limits.low,
        "high": limits.high,
        "q": stats.false_discovery_control(other.pvalue),
    }.items():
        np.testing.assert_allclose(table[column], values, rtol=1e-9, err_msg=column)


@pytest.mark.parametrize("effect", ["none", "abundance"])
def test_where_nothing_goes_with_the_class_nothing_is_tied(effect: str) -> None:
    """Not by depth, either: positive cells have twice the counts."""
    adata = planted(effect=effect)
    sc_cll.tl.programmes(adata, groupby="label", **QUICK)
    table = sc_cll.get.programmes(adata)
    assert len(table)
    assert not table["tied"].any()


def test_nothing_recurs_where_genes_are_permuted() -> None:
    adata = shuffled(planted())
    sc_cll.tl.programmes(adata, groupby="label", **QUICK)
    assert sc_cll.get.programmes(adata).empty
    assert adata.obsm["programmes"].shape == (adata.n_obs, 0)
    assert "no programme recurs in 4 donors" in adata.uns["programmes"]["reason"]


def test_a_programme_of_two_donors_is_counted_and_not_reported() -> None:
    names = [f"OWN{i}" for i in range(12)]
    of_two = with_block(planted(effect="none"), ["D01", "D02"], names)
    sc_cll.tl.programmes(of_two, groupby=None, **QUICK)
    genes = set(sc_cll.get.programmes(of_two, "top_genes")["gene"])
    assert len(genes & set(names)) <= 2
    before = planted(effect="none")
    sc_cll.tl.programmes(before, groupby=None, **QUICK)
    donors, without = (sc_cll.get.programmes(a, "donors")["n_specific"] for a in (of_two, before))
    assert donors[:2].sum() > without[:2].sum()
    assert of_two.uns["programmes"]["n_specific"] > 0
    of_all = with_block(planted(effect="none"), [f"D0{i}" for i in range(1, 7)], names)
    sc_cll.tl.programmes(of_all, groupby=None, **QUICK)
    assert set(names) <= set(sc_cll.get.programmes(of_all, "top_genes")["gene"])


@pytest.mark.parametrize(
    ("names", "mark", "column"),
    [
        ([f"RPL{i}" for i in range(20, 32)], "ribosomal", "ribosomal"),
        ([f"MT-ND{i}" for i in range(12)], "mitochondrial", "mitochondrial"),
        (
            DIVIDING,
            "cell cycle",
            "cell_cycle",
        ),
    ],
)
def test_what_is_no_programme_of_the_disease_is_marked(names, mark, column) -> None:
    adata = with_block(planted(effect="none"), [f"D0{i}" for i in range(1, 7)], names)
    sc_cll.tl.programmes(adata, groupby=None, **QUICK)
    table = sc_cll.get.programmes(adata).set_index("mark")
    assert table.loc[mark, column] >= 0.25
    assert "q" not in table


def test_neither_the_order_of_cells_nor_that_of_genes_changes_a_number(found: AnnData) -> None:
    random = np.random.default_rng(1)
    other = planted()
    other = other[random.permutation(other.n_obs), random.permutation(other.n_vars)].copy()
    sc_cll.tl.programmes(other, groupby="label", **QUICK)
    for name, table in found.uns["programmes"].items():
        if isinstance(table, pd.DataFrame):
            pd.testing.assert_frame_equal(other.uns["programmes"][name], table, check_exact=True)
    pd.testing.assert_frame_equal(
        other.obsm["programmes"].loc[found.obs_names], found.obsm["programmes"], check_exact=True
    )
    pd.testing.assert_frame_equal(
        other.varm["programmes"].loc[found.var_names], found.varm["programmes"], check_exact=True
    )


def test_the_usage_of_a_cell_is_its_own(found: AnnData) -> None:
    """Least squares of one cell on the weights that are written give it again."""
    scale = found.uns["programmes"]["scale"].set_index("gene")["sd"]
    weights = found.varm["programmes"].loc[scale.index].to_numpy()
    for cell in found.obs_names[[0, 400, 900]]:
        counts = found[cell].to_df().iloc[0].astype(float)
        x = counts[scale.index] / counts.sum() * 1e4 / scale
        expected = optimize.nnls(weights, x.to_numpy(dtype=float))[0]
        np.testing.assert_allclose(found.obsm["programmes"].loc[cell], expected, rtol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(weights, axis=0), 1)
    assert (weights >= 0).all()


def test_of_ordered_levels_the_slope_is_tested(found: AnnData) -> None:
    adata, random = planted(), np.random.default_rng(0)
    positive = (adata.obs["label"] == "positive").to_numpy()
    level = np.where(positive, "c", np.where(random.random(adata.n_obs) < 0.5, "a", "b"))
    adata.obs["level"] = pd.Categorical(level, list("abc"), ordered=True)
    sc_cll.tl.programmes(adata, groupby="level", **QUICK)
    usage = sc_cll.get.programmes(adata, "usage")
    assert usage["class"].unique().tolist() == ["a", "b", "c"]
    row = best(adata)
    one = usage[usage["programme"] == row["programme"]]
    wide = one.pivot_table(index="donor", columns="class", values="log2_usage")
    assert row["log2_fc"] == pytest.approx((wide["c"] - wide["a"]).mean())
    assert row["tied"]


def test_too_few_donors_with_every_class_are_said_and_programmes_stay() -> None:
    adata = planted()
    adata.obs.loc[adata.obs["donor"].isin(["D01", "D02", "D03"]), "label"] = "positive"
    sc_cll.tl.programmes(adata, groupby="label", **QUICK)
    record = adata.uns["programmes"]
    assert record["reason"].startswith(
        "3 donors have 20 cells of every class ('D04', 'D05', 'D06')"
    )
    assert record["n_programmes"] > 0
    assert "tied" not in record["programmes"]
    assert set(record["usage"]["class"]) == {"all cells"}


def test_a_programme_is_a_gene_set_and_a_score(found: AnnData, tmp_path) -> None:
    name = best(found)["programme"]
    genes = sc_cll.get.programmes(found, "top_genes", programme=name)
    sc_cll.io.write_gmt(genes, tmp_path / "p.gmt", name=name)
    assert sc_cll.io.read_gmt(tmp_path / "p.gmt") == {f"{name}_UP": genes["gene"].tolist()}
    scored = sc_cll.tl.score_signature(found, genes, method="waggr", copy=True)
    usage = found.obsm["programmes"][name]
    assert np.corrcoef(scored.obs["signature_score"], usage)[0, 1] > 0.5


def test_it_says_how_many_recur(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "scbert_cll"):
        sc_cll.tl.programmes(planted(), groupby=None, **QUICK)
    assert "recur in 4 or more of 6 donors" in caplog.text


# -- what is refused, each with a remedy that works


def refused(adata: AnnData, error: type[Exception], match: str, **how) -> str:
    """The sentence; the object stays as it was."""
    with unchanged(adata), pytest.raises(error, match=match) as raised:
        sc_cll.tl.programmes(adata, **{"groupby": "label"} | QUICK | how)
    return str(raised.value)


def test_too_few_donors_with_enough_cells() -> None:
    adata = planted(n_cells=60)
    adata = adata[
        ~adata.obs["donor"].isin(["D01", "D02", "D03"]) | (np.arange(360) % 2 == 0)
    ].copy()
    text = refused(adata, ValueError, r"3 have min_cells=50 cells \(.*D01: 30.*Lower min_cells")
    low = int(text.split("e.g. min_cells=")[1].rstrip("."))
    sc_cll.tl.programmes(adata, groupby="label", **QUICK, min_cells=low)
    assert low == 30
    few = adata[adata.obs["donor"].isin(["D04", "D05"])].copy()
    refused(few, ValueError, "2 have min_cells=50.*Cells of more donors are needed")


def test_values_that_are_no_counts() -> None:
    adata = planted()
    adata.layers["counts"], adata.X = adata.X, adata.X.log1p()
    refused(
        adata, ValueError, r"must hold raw counts.*adata.layers\['counts'\] holds whole numbers"
    )
    sc_cll.tl.programmes(adata, groupby="label", layer="counts", **QUICK)


def test_a_cell_without_counts() -> None:
    adata = planted()
    adata.X = sparse.csr_matrix(adata.X.multiply((np.arange(adata.n_obs) != 3)[:, None]))
    refused(adata, ValueError, r"1 cells have no counts in X \('cell00004'\)")


@pytest.mark.parametrize("ranks", [(4,), (1, 4), (4, 500), (4, 4), (2.5, 4), ()])
def test_ranks_out_of_range(ranks) -> None:
    text = refused(planted(), ValueError, r"from 2 to 150 \(D01 has 160 cells", ranks=ranks)
    example = eval(text.split("ranks=")[-1].rstrip("."))  # noqa: S307
    assert len(example) >= 2


def test_no_such_column_of_classes() -> None:
    text = refused(planted(), KeyError, "'cd49d' is not in adata.obs", groupby="cd49d")
    assert "groupby=None" in text
    sc_cll.tl.programmes(planted(), groupby=None, **QUICK)


def test_labels_that_are_as_good_permuted_tie_nothing(monkeypatch) -> None:
    monkeypatch.setattr(ByClass, "permuted", lambda self, rng: self)
    adata = planted()
    sc_cll.tl.programmes(adata, groupby="label", **QUICK)
    table = sc_cll.get.programmes(adata)
    assert (table["q"] < 0.05).any()
    assert (table["p_permuted"] == 1).any()
    assert not table["tied"].any()


def test_what_a_third_of_its_genes_do_ties_no_programme() -> None:
    """Twelve genes vary together; with the class four rise, and eight fall a little."""
    names = [f"BLOCK{i}" for i in range(12)]
    adata = planted(effect="none")
    adata = with_block(adata, list(adata.obs["donor"].unique()), names)
    random, counts = np.random.default_rng(0), adata.X.toarray()
    positive = np.flatnonzero(adata.obs["label"] == "positive")
    block = adata.var_names.get_indexer(names)
    few, many = (np.ix_(positive, part) for part in (block[:4], block[4:]))
    counts[few] *= 3
    counts[many] = random.binomial(counts[many].astype(int), 0.9)
    adata.X = sparse.csr_matrix(counts)
    sc_cll.tl.programmes(adata, groupby="label", **QUICK)
    table = sc_cll.get.programmes(adata)
    row = table[["BLOCK0" in genes for genes in table["genes"]]].squeeze(axis=0)
    assert row["q"] < 0.05
    assert row["p_permuted"] < 0.05
    assert row["genes_agree"] < 0.5
    assert not row["tied"]


def test_permutations_that_are_too_few_for_alpha() -> None:
    fewest = QUICK | {"n_permutations": 19}
    text = refused(
        planted(), ValueError, "as small as alpha=0.01", **fewest, groupby="label", alpha=0.01
    )
    assert "n_permutations=99" in text
    adata = planted()
    sc_cll.tl.programmes(adata, groupby="label", **fewest)
    assert sc_cll.get.programmes(adata)["tied"].any(), "19 permutations have a p of 0.05"


def test_levels_of_a_protein_are_no_classes() -> None:
    adata = planted()
    adata.obs["level"] = np.linspace(-2, 3, adata.n_obs)
    text = refused(
        adata, ValueError, "different numbers, and classes are categories", groupby="level"
    )
    assert "pd.cut(adata.obs['level'], bins=[...])" in text
    assert "The slope of genes over numbers is in tl.signature." in text
    adata.obs["level"] = pd.cut(adata.obs["level"], bins=[-3, 0, 4], labels=["low", "high"])
    sc_cll.tl.programmes(adata, groupby="level", **QUICK)


@pytest.mark.parametrize(
    "how",
    [
        {"n_top": 3},
        {"n_shuffled": 0},
        {"n_permutations": 5},
        {"min_donors": 1},
        {"min_cells": 4.5},
        {"alpha": 0.9},
        {"min_detected": 2},
    ],
)
def test_a_number_out_of_range(how) -> None:
    refused(planted(), ValueError, next(iter(how)), **how)


def test_variable_genes_are_chosen_where_there_are_many() -> None:
    adata = planted()
    sc_cll.tl.programmes(adata, groupby="label", **QUICK, n_genes=60)
    genes = set(adata.uns["programmes"]["scale"]["gene"])
    up = set(adata.var_names[adata.var["truth"] > 0])
    assert len(genes) == 60
    assert len(up & genes) > 0.7 * len(up)
    assert best(adata)["tied"]
