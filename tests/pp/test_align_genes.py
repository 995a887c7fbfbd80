from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from scbert_cll import pp
from scbert_cll._gene_names.table import shipped
from scbert_cll.vocab import GeneVocab

pytestmark = pytest.mark.filterwarnings("ignore:.*names are not unique:UserWarning")

FORMS = [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array, np.asarray]


def made(genes: list[str], counts: np.ndarray | None = None, n_cells: int = 4) -> ad.AnnData:
    if counts is None:
        counts = np.random.default_rng(0).poisson(2, size=(n_cells, len(genes))) + 1
    return ad.AnnData(
        sparse.csr_matrix(np.asarray(counts, dtype=np.float32)),
        obs=pd.DataFrame({"donor": "a"}, index=[f"c{i}" for i in range(len(counts))]),
        var=pd.DataFrame({"n": range(len(genes))}, index=pd.Index(genes)),
    )


def dense(adata: ad.AnnData, gene: str) -> list[float]:
    return adata[:, gene].X.toarray().ravel().tolist()


# --- what it does


def test_order_missing_and_dropped_genes() -> None:
    adata = made(["A", "B", "C"], np.array([[1, 2, 3], [4, 0, 6]]))
    aligned = pp.align_genes(adata, ["C", "X", "A"])
    assert aligned.var_names.tolist() == ["C", "X", "A"]
    assert aligned.X.toarray().tolist() == [[3, 0, 1], [6, 0, 4]]
    assert aligned.var["in_query"].tolist() == [True, False, True]
    assert aligned.var["in_query"].dtype == bool
    record = aligned.uns["align_genes"]
    assert record["matched"].tolist() == ["C", "A"]
    assert record["missing"].tolist() == ["X"]
    assert record["unmatched"].tolist() == ["B"]
    assert (
        record["duplicated"].tolist()
        == record["ambiguous"].tolist()
        == record["left_out"].tolist()
        == []
    )
    assert record["renamed"].empty
    given = {"layer": "X", "gene_key": "none", "min_counts": "none", "min_matched": "none"}
    assert record["params"] == given | {"aliases": False, "vocab": f"{aligned.n_vars} genes"}
    assert record["vocabulary_found"] == pytest.approx(2 / 3)
    assert record["counts_used"] == pytest.approx(14 / 16)
    assert record["named_by"] == "index"
    assert record["name_table"] == shipped().label


def test_columns_of_one_gene_are_summed_as_counts() -> None:
    names = ["ITGA4", "ITGA4", "CD20", "MS4A1-old", "TBCE", "TBCE-1"]
    adata = made(names, np.array([[1, 2, 4, 8, 16, 32], [0, 0, 0, 1, 0, 1]]))
    aligned = pp.align_genes(
        adata, ["TBCE", "MS4A1", "ITGA4"], aliases={"CD20": "MS4A1", "MS4A1-old": "MS4A1"}
    )
    assert aligned.X.toarray().tolist() == [[48, 12, 3], [1, 1, 0]]
    record = aligned.uns["align_genes"]
    assert record["duplicated"].tolist() == ["TBCE", "MS4A1", "ITGA4"]
    assert record["renamed"].to_numpy().tolist() == [
        ["CD20", "MS4A1", "alias"],
        ["MS4A1-old", "MS4A1", "alias"],
        ["TBCE-1", "TBCE", "suffix"],
    ]
    assert record["renamed"].columns.tolist() == ["old", "new", "how"]


def test_ambiguous_names_are_reported_not_guessed() -> None:
    aligned = pp.align_genes(
        made(["QARS", "CD5"]), ["QARS1", "CD5"], aliases={"QARS": ["QARS1", "EPRS1"]}
    )
    assert aligned.uns["align_genes"]["ambiguous"].tolist() == ["QARS"]
    assert dense(aligned, "QARS1") == [0] * 4


def test_sums_do_not_overflow_small_integers() -> None:
    for dtype, value in ((np.uint8, 200), (np.int16, 30_000), (bool, True)):
        adata = ad.AnnData(
            sparse.csr_matrix(np.full((1, 2), value, dtype=dtype)),
            var=pd.DataFrame(index=["A", "A"]),
        )
        assert pp.align_genes(adata, ["A"]).X.toarray().tolist() == [[2 * int(value)]]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", "u1"])
def test_form_of_the_matrix_does_not_matter(form: object, dtype: str) -> None:
    adata = made(["A", "B", "C"])
    expected = pp.align_genes(adata, ["C", "A"]).X.toarray()
    adata.X = form(adata.X.toarray().astype(dtype))
    aligned = pp.align_genes(adata, ["C", "A"])
    assert isinstance(aligned.X, sparse.csr_matrix)
    assert aligned.X.has_canonical_format
    assert aligned.X.dtype == dtype
    np.testing.assert_array_equal(aligned.X.toarray(), expected)


def test_a_large_shuffle_comes_out_tidy() -> None:
    rng = np.random.default_rng(0)
    genes = [f"g{i}" for i in range(300)]
    adata, vocab = made(genes, rng.poisson(0.3, size=(50, 300))), rng.permutation(genes).tolist()
    aligned = pp.align_genes(adata, vocab)
    assert sparse.csr_matrix(
        (aligned.X.data, aligned.X.indices, aligned.X.indptr)
    ).has_canonical_format
    np.testing.assert_array_equal(aligned.X.toarray(), adata[:, vocab].X.toarray())


def test_the_cells_come_along_and_the_input_stays() -> None:
    adata = made(["A", "B", "C"])
    adata.obsm["protein"] = pd.DataFrame({"CD49d": range(4)}, index=adata.obs_names)
    adata.obsp["near"] = sparse.identity(4, format="csr")
    adata.uns["cd49d"] = {"params": {"marker": "CD49d"}}
    before = adata.copy()
    aligned = pp.align_genes(adata, ["C", "A"])
    pd.testing.assert_frame_equal(aligned.obs, adata.obs)
    pd.testing.assert_frame_equal(aligned.obsm["protein"], adata.obsm["protein"])
    assert aligned.obsp["near"].sum() == 4
    assert aligned.uns["cd49d"] == adata.uns["cd49d"]
    aligned.uns["cd49d"]["params"]["marker"] = "other"
    aligned.obs["donor"] = "b"
    aligned.obsm["protein"]["CD49d"] = 9
    aligned.X.data[:] = 0
    assert adata.uns == before.uns
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    pd.testing.assert_frame_equal(adata.obsm["protein"], before.obsm["protein"])
    np.testing.assert_array_equal(adata.X.toarray(), before.X.toarray())
    assert adata.var_names.tolist() == ["A", "B", "C"]


def test_the_vocabulary_and_earlier_results_keep_their_names() -> None:
    vocab = GeneVocab(["A", "B", "C"])
    a, b = made(["A", "B", "C"]), made(["A", "B", "C"])
    a.var_names.name, b.var_names.name = "symbol", "gene"
    first = pp.align_genes(a, vocab)
    second = pp.align_genes(b, vocab)
    assert vocab.names.name is None
    assert (first.var_names.name, second.var_names.name) == ("symbol", "gene")


def test_a_view_is_fine() -> None:
    adata = made(["A", "B", "C"])
    aligned = pp.align_genes(adata[1:3], ["C", "A"])
    np.testing.assert_array_equal(aligned.X.toarray(), adata.X.toarray()[1:3][:, [2, 0]])
    assert not aligned.is_view


# --- other matrices


def with_layers(genes: list[str]) -> ad.AnnData:
    adata = made(genes)
    adata.layers["counts"] = adata.X.copy()
    adata.layers["spliced"] = adata.X.toarray() * 2
    adata.X = np.log1p(adata.X)
    return adata


def test_matrices_keep_their_slot() -> None:
    adata = with_layers(["A", "B", "C"])
    aligned = pp.align_genes(adata, ["C", "X", "A"], layer="counts")
    assert sorted(filter(None, aligned.layers)) == ["counts", "spliced"]
    np.testing.assert_allclose(aligned.X.toarray(), np.log1p(aligned.layers["counts"].toarray()))
    np.testing.assert_array_equal(
        aligned.layers["spliced"].toarray(), 2 * aligned.layers["counts"].toarray()
    )
    assert aligned.uns["align_genes"]["params"]["layer"] == "counts"


def test_logarithms_are_not_summed() -> None:
    aligned = pp.align_genes(with_layers(["A", "B", "A"]), ["B", "A"], layer="counts")
    assert aligned.X is None
    assert aligned.uns["align_genes"]["left_out"].tolist() == ["X"]
    np.testing.assert_array_equal(
        aligned.layers["spliced"].toarray(), 2 * aligned.layers["counts"].toarray()
    )


def test_tokens_stay_only_with_all_their_genes() -> None:
    adata = made(["A", "B", "C"])
    pp.bin_expression(adata)
    reordered = pp.align_genes(adata, ["C", "A", "B", "X"])
    np.testing.assert_array_equal(
        reordered.layers["binned"].toarray()[:, :3], adata.layers["binned"].toarray()[:, [2, 0, 1]]
    )
    assert "binned" in reordered.uns
    fewer = pp.align_genes(adata, ["C", "A"])
    assert "binned" not in fewer.layers
    assert "binned" not in fewer.uns
    assert fewer.uns["align_genes"]["left_out"].tolist() == ["binned"]


# --- properties


@given(
    st.lists(st.sampled_from("ABCDEFGH"), min_size=1, max_size=12),
    st.permutations("ABCDEFGH"),
    st.integers(1, 8),
)
def test_equals_a_table_grouped_by_name(genes: list[str], order: list[str], n: int) -> None:
    vocab = order[:n]
    adata = made(genes)
    if not set(vocab) & set(genes):
        with pytest.raises(ValueError, match="0 of"):
            pp.align_genes(adata, vocab, min_matched=0)
        return
    aligned = pp.align_genes(adata, vocab, min_matched=0)
    table = pd.DataFrame(adata.X.toarray(), columns=genes).T.groupby(level=0).sum().T
    np.testing.assert_array_equal(
        aligned.X.toarray(), table.reindex(columns=vocab, fill_value=0).to_numpy()
    )
    again = pp.align_genes(aligned, vocab, min_matched=0)
    np.testing.assert_array_equal(again.X.toarray(), aligned.X.toarray())


def test_vocabulary_from_anywhere(tmp_path: object) -> None:
    adata, names = made(["A", "B", "C"]), ["C", "A"]
    expected = pp.align_genes(adata, names).X.toarray()
    GeneVocab(names).save(tmp_path / "vocab.txt")
    for vocab in (
        GeneVocab(names),
        tmp_path / "vocab.txt",
        str(tmp_path / "vocab.txt"),
        made(names),
    ):
        np.testing.assert_array_equal(pp.align_genes(adata, vocab).X.toarray(), expected)


def test_survives_h5ad(tmp_path: object) -> None:
    adata = made(["A", "B", "CD49D", "Q"])
    aligned = pp.align_genes(
        adata, ["ITGA4", "A", "X"], aliases={"CD49D": "ITGA4", "Q": ["A", "X"]}
    )
    aligned.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    np.testing.assert_array_equal(back.X.toarray(), aligned.X.toarray())
    for key, value in aligned.uns["align_genes"].items():
        if isinstance(value, pd.DataFrame):
            assert back.uns["align_genes"][key].to_numpy().tolist() == value.to_numpy().tolist()
        else:
            np.testing.assert_array_equal(back.uns["align_genes"][key], value)
    nothing_renamed = pp.align_genes(adata, ["A", "B"])
    nothing_renamed.write_h5ad(tmp_path / "b.h5ad")
    assert ad.read_h5ad(tmp_path / "b.h5ad").uns["align_genes"]["renamed"].empty


# --- bad input


def test_too_few_genes_names_both_sides() -> None:
    adata = made(["A", "B", "C"], np.array([[3, 3, 4]]))
    with pytest.raises(
        ValueError, match=r"1 of 4 .*\(25\.0%\), with 30\.0% of its counts; .* 50% of either"
    ) as error:
        pp.align_genes(adata, ["A", "X", "Y", "Z"])
    assert "Only in adata (2): 'B', 'C'" in str(error.value)
    assert "only in the vocabulary (3): 'X', 'Y', 'Z'" in str(error.value)
    assert "lower min_counts or min_matched on purpose" in str(error.value)
    for enough in ({"min_counts": 0.3}, {"min_matched": 0.25}):
        assert pp.align_genes(adata, ["A", "X", "Y", "Z"], **enough).shape == (1, 4)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"min_counts": 0.95}, "expected at least 95% of the counts"),
        ({"min_matched": 0.3}, "expected at least 30% of the vocabulary"),
        (
            {"min_counts": 0.95, "min_matched": 0.1},
            "expected at least 95% of the counts and 10% of the vocabulary",
        ),
    ],
)
def test_shares_that_are_asked_for(given: dict[str, float], expected: str) -> None:
    """Nine tenths of the counts are used, and a quarter of the vocabulary is found."""
    adata = made(["A", "B"], np.array([[9, 1]]))
    with pytest.raises(ValueError, match=expected):
        pp.align_genes(adata, list("AXYZ"), **given)


def test_half_of_the_counts_or_of_the_vocabulary_is_enough(
    caplog: pytest.LogCaptureFixture,
) -> None:
    filtered = made(["A", "B"], np.array([[9, 1]]))
    with caplog.at_level("INFO"):
        aligned = pp.align_genes(filtered, list("AXYZ"))
    assert aligned.uns["align_genes"]["counts_used"] == pytest.approx(0.9)
    said = [(one.levelname, one.getMessage()) for one in caplog.records]
    text = "1 of the 4 genes of the vocabulary are in the data, and hold 90.0 % of its counts"
    assert said == [("WARNING", text)]
    short = pp.align_genes(made(list("ABC"), np.array([[1, 5, 94]])), ["A"])
    assert short.uns["align_genes"]["counts_used"] == pytest.approx(0.01)
    assert short.uns["align_genes"]["vocabulary_found"] == 1


# --- genes by any name


def of_cellxgene(version: str = "") -> ad.AnnData:
    """Ensembl ids in the index, symbols in `feature_name`, nameless genes under their id."""
    names = {"ENSG00000115232": "ITGA4", "ENSG00000122545": "SEPTIN7", "ENSG00000177455": "CD19"}
    names |= {"ENSG00000990001": "ENSG00000990001"}
    adata = made([one + version for one in names])
    adata.var["feature_name"] = pd.Categorical(list(names.values()))
    return adata


OLD = ["CD19", "SEPT7", "ITGA4"]


@pytest.mark.parametrize("version", ["", ".14"])
def test_a_file_of_cellxgene(version: str) -> None:
    adata = of_cellxgene(version)
    before = adata.var.copy()
    aligned = pp.align_genes(adata, OLD)
    expected = adata.X.toarray()[:, [2, 1, 0]]
    np.testing.assert_array_equal(aligned.X.toarray(), expected)
    record = aligned.uns["align_genes"]
    assert record["named_by"] == "feature_name"
    assert record["renamed"].to_numpy().tolist() == [["SEPTIN7", "SEPT7", "alias"]]
    pd.testing.assert_frame_equal(adata.var, before)
    # without the column, by the table
    del adata.var["feature_name"]
    by_id = pp.align_genes(adata, OLD)
    np.testing.assert_array_equal(by_id.X.toarray(), expected)
    assert by_id.uns["align_genes"]["named_by"] == "index"
    assert set(by_id.uns["align_genes"]["renamed"]["how"]) == {"ensembl"}


def test_symbols_into_a_vocabulary_of_ids() -> None:
    ids = ["ENSG00000177455", "ENSG00000115232.3"]
    adata = made(["ITGA4", "CD19"])
    expected = adata.X.toarray()[:, ::-1]
    np.testing.assert_array_equal(pp.align_genes(adata, ids).X.toarray(), expected)
    # what the file itself says goes before the table
    adata.var["gene_ids"] = ids
    aligned = pp.align_genes(adata, ids)
    np.testing.assert_array_equal(aligned.X.toarray(), adata.X.toarray())
    assert aligned.uns["align_genes"]["named_by"] == "gene_ids"


def test_numbers_in_the_index_are_no_names() -> None:
    adata = of_cellxgene()
    expected = pp.align_genes(adata, OLD).X.toarray()
    adata.var_names = [str(i) for i in range(4)]
    aligned = pp.align_genes(adata, OLD)
    np.testing.assert_array_equal(aligned.X.toarray(), expected)


def test_a_column_is_named_and_gaps_are_filled_by_the_index() -> None:
    adata = made(["ITGA4", "b", "c"])
    adata.var["mine"] = [None, "CD19", "CD5"]
    aligned = pp.align_genes(adata, ["CD5", "CD19", "ITGA4"], gene_key="mine")
    np.testing.assert_array_equal(aligned.X.toarray(), adata.X.toarray()[:, ::-1])
    assert aligned.uns["align_genes"]["params"]["gene_key"] == "mine"
    with pytest.raises(KeyError, match=r"'other' is not in adata\.var.*it has 'n', 'mine'"):
        pp.align_genes(adata, ["CD5"], gene_key="other")


def test_an_index_of_the_right_kind_is_taken() -> None:
    adata = made(["ITGA4", "CD19"])
    adata.var["feature_name"] = ["CD19", "ITGA4"]
    aligned = pp.align_genes(adata, ["ITGA4", "CD19"])
    np.testing.assert_array_equal(aligned.X.toarray(), adata.X.toarray())
    assert aligned.uns["align_genes"]["named_by"] == "index"


def test_symbols_and_ids_in_one_index_are_refused() -> None:
    adata = made(["ITGA4", "CD19", "CD5", "ENSG00000115232", "ENSG00000177455.2"])
    sentence = r"mixes symbols \(60%: 'ITGA4', .*\) and Ensembl ids \(40%: 'ENSG00000115232'"
    with pytest.raises(ValueError, match=rf"adata\.var_names {sentence}.*gene_key="):
        pp.align_genes(adata, OLD)
    # both remedies
    kept = adata[:, ~adata.var_names.str.startswith("ENSG")].copy()
    assert pp.align_genes(kept, OLD).uns["align_genes"]["matched"].tolist() == ["CD19", "ITGA4"]
    adata.var["symbol"] = ["A1", "A2", "CD5", "ITGA4", "CD19"]
    assert pp.align_genes(adata, OLD, gene_key="symbol").var["in_query"].sum() == 2
    adata.var["mixed"] = adata.var_names
    with pytest.raises(ValueError, match=r"adata\.var\['mixed'\] mixes symbols"):
        pp.align_genes(adata, OLD, gene_key="mixed")


def test_ids_of_genes_without_a_symbol_are_not_mixed() -> None:
    nameless = [f"ENSG0000099000{i}" for i in range(4)]
    aligned = pp.align_genes(made(["ITGA4", "CD19", *nameless]), ["ITGA4", "CD19"])
    assert aligned.uns["align_genes"]["unmatched"].tolist() == nameless


@pytest.mark.parametrize(
    ("genes", "vocab", "hint"),
    [
        (
            ["ENSG00000990001", "ENSG00000990002"],
            ["ITGA4", "CD19"],
            "data are named by Ensembl ids, the vocabulary by symbols",
        ),
        (
            ["ITGA4", "CD19"],
            ["ENSG00000990001", "ENSG00000990002"],
            "data are named by symbols, the vocabulary by Ensembl ids, and no table .*gene_key=",
        ),
        (
            ["Itga4", "Cd19", "Ms4a1"],
            ["ITGA4", "CD19", "MS4A1"],
            "look like a mouse's: map them first, pp.to_human",
        ),
        (
            ["ENSMUSG00000027009", "ENSMUSG00000030724"],
            ["ITGA4", "CD19"],
            "look like a mouse's: map them first, pp.to_human",
        ),
    ],
)
def test_hints(genes: list[str], vocab: list[str], hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        pp.align_genes(made(genes), vocab)


def log_values() -> ad.AnnData:
    adata = made(["A", "B"])
    adata.X = np.log1p(adata.X)
    return adata


@pytest.mark.parametrize(
    ("make", "kwargs", "error", "message"),
    [
        (log_values, {}, ValueError, "must hold raw counts .*looks log-transformed"),
        (
            lambda: made(["A", "B"], np.array([[1, -1]])),
            {},
            ValueError,
            "negative values, first -1 .cell 'c0', gene 'B'",
        ),
        (lambda: made(["A", "B"], np.array([[1, np.nan]])), {}, ValueError, "NaN or infinite"),
        (
            lambda: made(["A", "B"]),
            {"layer": "counts"},
            KeyError,
            "'counts' is not in adata.layers; it has none",
        ),
        (
            lambda: made(["A", "B"]),
            {"min_matched": 1.5},
            ValueError,
            "min_matched must be a number from 0 to 1; found 1.5",
        ),
        (
            lambda: made(["A", "B"]),
            {"min_counts": -1},
            ValueError,
            "min_counts must be a number from 0 to 1; found -1",
        ),
        (lambda: made(["A", "B"])[:0], {}, ValueError, "found 0 cells x 2 genes"),
        (
            lambda: made(["A", "B"])[[0, 0]],
            {},
            ValueError,
            "obs_names must be unique; found more than once: 'c0'",
        ),
        (lambda: np.ones((2, 2)), {}, TypeError, "Expected an AnnData, found ndarray"),
    ],
)
def test_bad_input(make: object, kwargs: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        pp.align_genes(make(), ["A", "B"], **kwargs)


def test_bad_vocabulary() -> None:
    with pytest.raises(
        ValueError, match="the vocabulary must be unique; found more than once: 'A'"
    ):
        pp.align_genes(made(["A", "B"]), ["A", "B", "A"])


def test_backed_is_refused(tmp_path: object) -> None:
    made(["A", "B"]).write_h5ad(tmp_path / "a.h5ad")
    adata = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    with pytest.raises(ValueError, match="is backed by"):
        pp.align_genes(adata, ["A", "B"])
    adata.file.close()


# --- real data


@pytest.mark.realdata
def test_real_counts_into_scberts_gene_order(shared_file: object) -> None:
    adata = ad.read_h5ad(shared_file("data/sorted_pbmc.h5ad"))
    vocab = GeneVocab.read(shared_file("data/panglao_gene_order_16906.txt"))
    aligned = pp.align_genes(adata, vocab)  # 8,863 symbols of 2017
    record = aligned.uns["align_genes"]
    assert aligned.shape == (adata.n_obs, 16_906)
    exact = adata.var_names[adata.var_names.isin(vocab.names)]
    assert len(record["matched"]) > len(exact)
    assert record["vocabulary_found"] < 0.5 < 0.9 < record["counts_used"]
    for gene in ("CD19", "MS4A1", "HLA-DRA"):
        assert dense(aligned, gene) == dense(adata, gene)
    # its names were made unique by R: the one duplicate in the vocabulary is summed
    renamed = record["renamed"].set_index("how")
    assert renamed.loc[["suffix"], "old"].tolist() == ["SRSF10.1"]
    assert (
        dense(aligned, "SRSF10")
        == (adata[:, "SRSF10"].X + adata[:, "SRSF10.1"].X).toarray().ravel().tolist()
    )
    # every gene that the vocabulary calls the same is as it was, if no other is called so
    same = exact.difference(record["duplicated"])
    assert len(exact) - len(same) <= 1
    assert (aligned[:, same].X != adata[:, same].X).nnz == 0
    pp.bin_expression(aligned)
    assert aligned.layers["binned"].shape == aligned.shape


@pytest.mark.realdata
def test_real_counts_under_ids(shared_file: object) -> None:
    """Real genes as CELLxGENE names them: the same counts, with and without the column."""
    adata = ad.read_h5ad(shared_file("data/sorted_pbmc.h5ad"))
    vocab = GeneVocab.read(shared_file("data/panglao_gene_order_16906.txt"))
    ids = {s: i for i, s in shipped().approved.items() if i.startswith("ENSG")}
    known = shipped().approved
    symbols = [known.get(name, name) for name in adata.var_names]
    adata = adata[:, [name in ids for name in symbols]].copy()
    expected = pp.align_genes(adata, vocab)
    adata.var["feature_name"] = adata.var_names
    adata.var_names = [ids[known[name]] for name in adata.var["feature_name"]]
    there = pp.align_genes(adata, vocab)
    assert there.uns["align_genes"]["named_by"] == "feature_name"
    assert (there.X != expected.X).nnz == 0
    del adata.var["feature_name"]
    by_id = pp.align_genes(adata, vocab)
    lost = expected.var["in_query"] & ~by_id.var["in_query"]
    assert lost.sum() <= 0.01 * expected.var["in_query"].sum()
