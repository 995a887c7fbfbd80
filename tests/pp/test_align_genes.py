from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from scbert_cll import pp
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
    given = {"layer": "X", "min_matched": 0.5, "aliases": False}
    assert record["params"] == given | {"vocab": f"{aligned.n_vars} genes"}


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
    with pytest.raises(
        ValueError, match=r"1 of 4 vocabulary genes .*\(25.0%\), expected at least 50%"
    ) as error:
        pp.align_genes(made(["A", "B", "C"]), ["A", "X", "Y", "Z"])
    assert "Only in adata (2): 'B', 'C'" in str(error.value)
    assert "only in the vocabulary (3): 'X', 'Y', 'Z'" in str(error.value)
    assert "lower min_matched on purpose" in str(error.value)
    assert pp.align_genes(made(["A", "B", "C"]), ["A", "X", "Y", "Z"], min_matched=0.25).shape == (
        4,
        4,
    )


@pytest.mark.parametrize(
    ("genes", "vocab", "hint"),
    [
        (
            ["ENSG00000115232", "ENSG00000177455"],
            ["ITGA4", "CD19"],
            "data are named by Ensembl ids, the vocabulary by symbols",
        ),
        (
            ["ITGA4", "CD19"],
            ["ENSG00000115232", "ENSG00000177455"],
            "data are named by symbols, the vocabulary by Ensembl",
        ),
        (["Itga4", "Cd19", "Ms4a1"], ["ITGA4", "CD19", "MS4A1"], "look like mouse symbols"),
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
    with pytest.raises(
        ValueError,
        match=r"of 16906 vocabulary genes are in adata.*all genes .not only highly variable",
    ):
        pp.align_genes(adata, vocab)
    aliases = shared_file("data/ncbi_alias_to_symbol_orgHs_3.16.tsv.gz")
    plain = pp.align_genes(adata, vocab, min_matched=0.4)
    helped = pp.align_genes(adata, vocab, min_matched=0.4, aliases=aliases)
    assert plain.shape == helped.shape == (adata.n_obs, 16_906)
    assert (
        helped.var["in_query"].sum()
        > plain.var["in_query"].sum()
        == adata.var_names.isin(vocab.names).sum()
    )
    for gene in ("CD19", "MS4A1", "HLA-DRA"):
        assert dense(helped, gene) == dense(adata, gene)
    # its names were made unique by R: the one duplicate in the vocabulary is summed, every other
    # column is as it was
    assert plain.uns["align_genes"]["renamed"]["old"].tolist() == ["SRSF10.1"]
    assert (
        dense(plain, "SRSF10")
        == (adata[:, "SRSF10"].X + adata[:, "SRSF10.1"].X).toarray().ravel().tolist()
    )
    same = plain.var_names[plain.var["in_query"] & (plain.var_names != "SRSF10")]
    assert (plain[:, same].X != adata[:, same].X).nnz == 0
    pp.bin_expression(helped)
    assert helped.layers["binned"].shape == helped.shape
