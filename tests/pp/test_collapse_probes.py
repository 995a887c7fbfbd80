from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

from scbert_cll import datasets, pp

PROBES = ["p1", "p2", "p3", "p4", "p5"]
GENES = {"p1": "ITGA4", "p2": "CD38", "p3": "ITGA4", "p4": "ITGA4 /// CD38", "p5": None}


def array(
    values: Any = ((1.0, 5.0, 3.0, 9.0, 9.0), (3.0, 5.0, 2.0, 9.0, 9.0)), names: list[str] = PROBES
) -> ad.AnnData:
    values = np.asarray(values, dtype=float)
    obs = pd.DataFrame({"x": range(len(values))}, index=[f"s{i}" for i in range(len(values))])
    return ad.AnnData(values, obs=obs, var=pd.DataFrame({"length": range(len(names))}, index=names))


def test_the_most_abundant_probe_is_taken() -> None:
    adata = array()
    genes = pp.collapse_probes(adata, GENES)
    assert genes.var_names.tolist() == ["ITGA4", "CD38"]
    assert genes.X.tolist() == [[3, 5], [2, 5]]
    assert genes.var["probe"].tolist() == ["p3", "p2"]
    assert genes.var["n_probes"].tolist() == [2, 1]
    assert genes.var.columns.tolist() == ["n_probes", "probe"]
    record = genes.uns["collapse_probes"]
    assert (record["n_probes"], record["n_genes"]) == (5, 2)
    assert record["several_genes"].tolist() == ["p4"]
    assert record["no_gene"].tolist() == ["p5"]
    assert record["params"] == {"method": "max_mean", "probes": GENES | {"p5": "none"}}
    assert adata.var_names.tolist() == PROBES
    assert not adata.uns


def test_mean_of_the_probes() -> None:
    genes = pp.collapse_probes(
        array([[1, 5, 3, 9, 9], [np.nan, 5, 2, 9, 9], [np.nan, np.nan, np.nan, 9, 9]]),
        GENES,
        method="mean",
    )
    np.testing.assert_array_equal(genes.X, [[2, 5], [2, 5], [np.nan, np.nan]])
    assert genes.var["probe"].tolist() == ["p1 /// p3", "p2"]


def test_a_probe_with_fewer_gaps_comes_first() -> None:
    values = [[1, 9, np.nan], [1, np.nan, np.nan]]
    genes = pp.collapse_probes(
        array(values, ["a", "b", "c"]), dict.fromkeys("abc", "G") | {"c": "H"}
    )
    assert genes.var["probe"].to_dict() == {"G": "a", "H": "c"}
    assert np.isnan(genes[:, "H"].X).all(), "nothing is filled in"


def test_equal_probes_keep_their_order() -> None:
    assert pp.collapse_probes(
        array(np.ones((2, 3)), ["c", "a", "b"]), dict.fromkeys("abc", "G")
    ).var["probe"].tolist() == ["c"]


@given(
    hnp.arrays(float, (3, 6), elements=st.floats(-5, 15)),
    st.lists(st.sampled_from("ABC"), min_size=6, max_size=6),
)
@settings(max_examples=30)
def test_as_a_loop_would_do_it(values: np.ndarray, genes: list[str]) -> None:
    names = [f"p{i}" for i in range(6)]
    adata, of = array(values, names), dict(zip(names, genes, strict=True))
    best, mean = (
        pp.collapse_probes(adata, of).to_df(),
        pp.collapse_probes(adata, of, method="mean").to_df(),
    )
    assert best.columns.tolist() == mean.columns.tolist() == list(dict.fromkeys(genes))
    for gene in set(genes):
        own = values[:, [g == gene for g in genes]]
        np.testing.assert_array_equal(best[gene], own[:, np.argmax(own.sum(axis=0) / 3)])
        np.testing.assert_allclose(mean[gene], own.mean(axis=1), atol=1e-12)


@pytest.mark.parametrize("several", ["A /// B", "A//B", "A;B", "A, B", "A|B"])
def test_a_probe_of_several_genes_is_left_out(several: str) -> None:
    genes = pp.collapse_probes(array([[1, 2]], ["a", "b"]), {"a": several, "b": "NKX2-1"})
    assert genes.var_names.tolist() == ["NKX2-1"]
    assert genes.uns["collapse_probes"]["several_genes"].tolist() == ["a"]


def test_a_probe_on_two_rows() -> None:
    table = pd.DataFrame(
        {"probe": ["a", "a", "b", "b", "c", "c"], "gene": ["A", "B", "B", "B", "C", None]}
    )
    genes = pp.collapse_probes(array([[1, 2, 3]], ["a", "b", "c"]), table)
    assert genes.var_names.tolist() == ["B", "C"]
    assert genes.uns["collapse_probes"]["several_genes"].tolist() == ["a"]


@pytest.mark.parametrize("missing", [None, np.nan, "", " ", "---", "NA"])
def test_ways_to_have_no_gene(missing: Any) -> None:
    genes = pp.collapse_probes(array([[1, 2, 3]], ["a", "b", "c"]), {"a": missing, "b": " B "})
    assert genes.var_names.tolist() == ["B"]
    assert genes.uns["collapse_probes"]["no_gene"].tolist() == ["a", "c"]


def test_forms_of_the_table(tmp_path: Path) -> None:
    adata = array()
    adata.var["symbol"] = pd.Categorical(list(GENES.values()))
    frame = pd.DataFrame({"probe": list(GENES), "gene": list(GENES.values())})
    frame.to_csv(tmp_path / "a.csv.gz", index=False)
    geo = frame.set_axis(["ID", "Gene Symbol"], axis=1).assign(GB_ACC="x")
    (tmp_path / "GPL570.txt").write_text(
        "#ID = Affymetrix probe\n" + geo.to_csv(sep="\t", index=False)
    )
    swapped = frame[["gene", "probe"]]
    two = frame.set_axis(["x", "y"], axis=1)
    expected = pp.collapse_probes(adata, GENES)
    for form in (
        "symbol",
        frame,
        swapped,
        two,
        pd.Series(GENES),
        tmp_path / "a.csv.gz",
        str(tmp_path / "GPL570.txt"),
    ):
        found = pp.collapse_probes(adata, form)
        pd.testing.assert_frame_equal(found.to_df(), expected.to_df())
        pd.testing.assert_frame_equal(found.var, expected.var)


def test_sparse_values_and_what_belongs_to_samples(tmp_path: Path) -> None:
    adata = array()
    adata.X = sparse.csr_matrix(adata.X)
    adata.obsm["pca"], adata.layers["raw"], adata.uns["cohort"] = (
        np.ones((2, 2)),
        adata.X.copy(),
        {"n": 1},
    )
    genes = pp.collapse_probes(adata, GENES, key_added="genes")
    assert genes.X.tolist() == [[3, 5], [2, 5]]
    assert genes.obs["x"].tolist() == [0, 1]
    assert set(genes.uns) == {"cohort", "genes"}
    assert set(genes.obsm) == {"pca"}
    assert set(genes.layers) - {None} == set()
    genes.uns["cohort"]["n"] = 2
    assert adata.uns["cohort"]["n"] == 1
    genes.write_h5ad(tmp_path / "a.h5ad")
    assert ad.read_h5ad(tmp_path / "a.h5ad").uns["genes"]["no_gene"].tolist() == ["p5"]


@pytest.mark.parametrize("ids", [[3676.0, 952.0, np.nan], ["3676", "952", None], [3676, 952, 1]])
def test_numbers_of_genes_are_told(ids: list[Any]) -> None:
    table = pd.DataFrame({"probe": ["a", "b", "c"], "gene": ids})
    with pytest.warns(
        UserWarning,
        match=r"look like Entrez ids \('3676', '952'.*a signature has symbols: map them first",
    ):
        genes = pp.collapse_probes(array([[1, 2, 3]], ["a", "b", "c"]), table)
    assert genes.var_names.tolist()[:2] == ["3676", "952"]


@pytest.mark.parametrize(
    ("probes", "options", "error", "message"),
    [
        (
            {"ITGA4": "p1"},
            {},
            ValueError,
            (
                r"No probe of adata has a gene. adata has 'p1', 'p2', 'p3' and 2 more; "
                r"the "
                r"table "
                r"has "
                r"'ITGA4'"
            ),
        ),
        ({"p1": "A /// B"}, {}, ValueError, "No probe of adata has a gene"),
        (
            pd.DataFrame({"a": [1], "b": [2], "c": [3]}),
            {},
            ValueError,
            "must have the columns 'probe' and 'gene'.*it has 'a', 'b', 'c'",
        ),
        (["ITGA4"], {}, TypeError, "probes is a DataFrame with 'probe' and 'gene'.*found list"),
        (
            GENES,
            {"method": "max"},
            ValueError,
            "method must be one of 'max_mean', 'mean'; found 'max'",
        ),
    ],
)
def test_what_is_refused(
    probes: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        pp.collapse_probes(array(), probes, **options)


@pytest.mark.filterwarnings("ignore:.*names are not unique:UserWarning")
def test_probes_of_one_name() -> None:
    with pytest.raises(ValueError, match="var_names must be unique; found more than once: 'a'"):
        pp.collapse_probes(array([[1, 2]], ["a", "a"]), {"a": "A"})


@pytest.mark.realdata
def test_real_array(shared_file: Callable[[str], Path]) -> None:
    adata = datasets.read_cohort(
        shared_file("data/sCLLex_exprs.csv.gz"), shared_file("data/sCLLex_pheno.csv")
    )
    path = shared_file("data/hgu95A_probe_symbol.csv")
    with pytest.warns(UserWarning, match="Entrez ids"):
        assert "3676" in pp.collapse_probes(adata, path).var_names
    names = pd.read_csv(
        shared_file("data/ncbi_alias_to_symbol_orgHs_3.16.tsv.gz"), sep="\t", dtype=str
    )
    probes = pd.read_csv(path, dtype=str)
    symbols = names.drop_duplicates("entrez").set_index("entrez")["symbol"]
    genes = pp.collapse_probes(
        adata, dict(zip(probes["probe"], probes["symbol"].map(symbols), strict=True))
    )
    assert genes.shape == (22, 8466)
    assert genes.var.loc["ITGA4", "n_probes"] == 2
    pair = adata[:, ["2061_at", "35731_at"]].to_df()
    assert genes.var.loc["ITGA4", "probe"] == pair.mean().idxmax()
    np.testing.assert_array_equal(genes[:, "ITGA4"].X.ravel(), pair[pair.mean().idxmax()])
    assert len(genes.uns["collapse_probes"]["no_gene"]) == 1218
