"""tl.score_signature tells classes apart in donors the signature has not seen, and says what it
could not use.
"""

from __future__ import annotations

import sys

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse, stats
from sklearn.metrics import roc_auc_score

import scbert_cll as sb
from scbert_cll._gene_names.table import shipped
from tests._make import unchanged

AUCELL = pytest.param("aucell", marks=pytest.mark.slow)  # decoupler compiles it
METHODS = ("ulm", "waggr", "zscore", AUCELL)


@pytest.fixture(scope="session")
def found() -> tuple[AnnData, AnnData]:
    """Donors with a signature, and two donors it has not seen."""
    adata = sb.datasets.planted_donors(n_donors=10, rng=0)
    held_out = adata.obs["donor"].isin(["D09", "D10"]).to_numpy()
    seen = adata[~held_out].copy()
    sb.tl.signature(seen, groupby="label")
    return seen, adata[held_out].copy()


def score(adata: AnnData, *args, **kwargs) -> np.ndarray:
    return (
        sb.tl.score_signature(adata, *args, copy=True, **kwargs).obs["signature_score"].to_numpy()
    )


def weights_of(seen: AnnData) -> pd.Series:
    genes = seen.uns["signature"]["genes"]
    return genes[genes["selected"]].set_index("gene")["log2_fc"]


def log_of(adata: AnnData) -> np.ndarray:
    counts = adata.X.toarray().astype(float)
    return np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)


@pytest.mark.parametrize("method", METHODS)
def test_classes_are_told_apart_in_unseen_donors(found, method) -> None:
    seen, unseen = found
    for _, cells in unseen.obs.groupby("donor", observed=True):
        own = unseen[cells.index].copy()
        sb.tl.score_signature(own, seen.uns["signature"]["genes"], method=method)
        assert own.obs["signature_score"].dtype == np.float64
        assert roc_auc_score(own.obs["label"] == "positive", own.obs["signature_score"]) > 0.97


@pytest.mark.parametrize("method", METHODS)
def test_directions_count(found, method) -> None:
    seen, unseen = found
    weight, positive = weights_of(seen), unseen.obs["label"] == "positive"
    signed, turned = (
        score(unseen, dict(weight), method=method),
        score(unseen, dict(-weight), method=method),
    )
    np.testing.assert_allclose(signed, -turned, atol=1e-9)
    assert roc_auc_score(positive, signed) > roc_auc_score(
        positive, score(unseen, list(weight.index), method=method)
    )


def test_the_methods_are_what_the_docstring_says(found) -> None:
    seen, unseen = found
    weight, log = weights_of(seen), log_of(unseen)
    all_weights = weight.reindex(unseen.var_names).fillna(0).to_numpy()
    mean = log @ all_weights / np.abs(all_weights).sum()
    np.testing.assert_allclose(score(unseen, dict(weight), method="waggr"), mean)
    z = mean * np.sqrt(len(weight)) / log.std(1, ddof=1)
    np.testing.assert_allclose(score(unseen, dict(weight), method="zscore"), z)
    line = stats.linregress(all_weights, log[3])
    assert score(unseen, dict(weight))[3] == pytest.approx(line.slope / line.stderr)


@pytest.mark.parametrize("method", METHODS)
def test_a_score_belongs_to_a_cell(found, method) -> None:
    seen, unseen = found
    genes = seen.uns["signature"]["genes"]
    whole, few = score(unseen, genes, method=method), [7, 200, 1]
    assert (unseen[few].X.getnnz(axis=0) == 0).any(), "genes that the few cells do not express"
    np.testing.assert_allclose(score(unseen[few], genes, method=method), whole[few], rtol=1e-9)


def test_all_forms_of_a_signature_are_the_same(found, tmp_path) -> None:
    seen, unseen = found
    genes, weight = seen.uns["signature"]["genes"], weights_of(seen)
    table = pd.DataFrame({"gene": weight.index, "weight": weight.to_numpy()})
    expected = score(unseen, genes)
    for form in (dict(weight), weight, table, genes[genes["selected"]]):
        np.testing.assert_array_equal(score(unseen, form), expected)
    own = unseen.copy()
    own.uns["other"] = seen.uns["signature"]
    np.testing.assert_array_equal(score(own, key="other"), expected)
    halves = {
        f"A{end}": list(weight.index[np.sign(weight) == sign])
        for end, sign in (("_UP", 1), ("_DN", -1))
    }
    path = tmp_path / "sets.gmt"
    path.write_text(
        "".join("\t".join([name, "x", *members]) + "\n" for name, members in halves.items())
    )
    signed = score(unseen, dict(np.sign(weight)))
    for form in (path, str(path), halves):
        np.testing.assert_allclose(score(unseen, form), signed)
    names = list(weight.index)
    for form in (pd.Series(names), pd.Index(names), np.array(names, dtype=object)):
        np.testing.assert_array_equal(score(unseen, form), score(unseen, names))
    np.testing.assert_allclose(
        score(unseen, {"A_DN": list(weight.index)}), score(unseen, list(weight.index))
    )


def test_what_is_written_survives_a_file_and_x_stays(found, tmp_path) -> None:
    seen, _ = found
    adata = seen.copy()
    sb.tl.score_signature(adata)
    assert (adata.X != seen.X).nnz == 0
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    record = back.uns["signature_score"]
    assert (record["n_genes"], record["n_missing"], record["weight_found"]) == (
        len(weights_of(seen)),
        0,
        1.0,
    )
    assert record["genes"]["found"].all()
    assert record["params"]["method"] == "ulm"
    np.testing.assert_array_equal(score(back), adata.obs["signature_score"])


def test_missing_genes_are_told_and_do_not_count(found) -> None:
    seen, unseen = found
    weight = {"GONE": 0.5, **dict(weights_of(seen).head(3)), "AWAY": -0.5}
    with pytest.warns(
        UserWarning,
        match=r"2 of the 5 genes of the signature \(\d+% of its .* count: 'GONE', 'AWAY'",
    ):
        sb.tl.score_signature(unseen, weight)
    record = unseen.uns["signature_score"]
    assert record["n_missing"] == 2
    assert record["genes"].loc[~record["genes"]["found"], "gene"].tolist() == ["GONE", "AWAY"]
    kept = {gene: w for gene, w in weight.items() if gene in unseen.var_names}
    np.testing.assert_array_equal(unseen.obs["signature_score"], score(unseen, kept))
    assert record["weight_found"] == pytest.approx(1 - 1 / np.abs(list(weight.values())).sum())


def test_genes_that_alignment_filled_in_are_missing(found) -> None:
    seen, unseen = found
    weight, vocabulary = weights_of(seen), list(unseen.var_names)
    part = unseen[:, [g for g in vocabulary if g != weight.index[0]]].copy()
    aligned = sb.pp.align_genes(part, vocabulary)
    with pytest.warns(UserWarning, match="1 of the .* genes of the signature .* not in adata"):
        one = sb.tl.score_signature(aligned, dict(weight), copy=True)
    with pytest.warns(UserWarning, match="1 of the .* genes of the signature .* not in adata"):
        other = sb.tl.score_signature(part, dict(weight), copy=True)
    np.testing.assert_allclose(one.obs["signature_score"], other.obs["signature_score"])


@pytest.mark.parametrize("method", METHODS)
def test_bulk_samples_with_log_values(found, method) -> None:
    """Sums of donors and classes on a log scale, some below zero: the class is the score."""
    seen, unseen = found
    groups = unseen.obs["donor"].astype(str) + " " + unseen.obs["label"].astype(str)
    rows = [unseen.X[np.flatnonzero(groups == g)].sum(0).A1 for g in sorted(groups.unique())]
    log = np.log2(np.stack(rows) / np.sum(rows, axis=1, keepdims=True) * 1e6 + 0.5)
    bulk = AnnData(log - log.mean(0), pd.DataFrame(index=sorted(groups.unique())), unseen.var[[]])
    weights = dict(weights_of(seen))
    values = score(bulk, weights, method=method, normalize=False)
    negative, positive = values.reshape(2, 2).T
    assert min(positive) > max(negative)
    bulk.layers["kept"] = sparse.csc_matrix(bulk.X)
    again = score(bulk, weights, method=method, normalize=False, layer="kept")
    np.testing.assert_allclose(again, values)


def test_counts_and_log_values_are_not_taken_for_each_other(found) -> None:
    seen, unseen = found
    genes = seen.uns["signature"]["genes"]
    log = AnnData(log_of(unseen), unseen.obs, unseen.var)
    with pytest.raises(
        ValueError, match=r"must hold raw counts .* log-expression values, pass normalize=False"
    ):
        sb.tl.score_signature(log, genes)
    with pytest.raises(
        ValueError,
        match=r"adata.X holds whole numbers only, .* leave normalize=True for raw counts",
    ):
        sb.tl.score_signature(unseen, genes, normalize=False)
    log.X[3, 4] = np.nan
    with pytest.raises(ValueError, match=r"adata.X holds 1 values that are NaN or infinite"):
        sb.tl.score_signature(log, genes, normalize=False)


def test_too_little_of_a_signature_is_refused(found) -> None:
    _, unseen = found
    weight = {"GONE": 2.0, "ITGA4": -1.0}
    with pytest.raises(
        ValueError, match=r"1 of the 2 genes .* 33% of its weight, are in adata; .* Missing: 'GONE'"
    ):
        sb.tl.score_signature(unseen, weight)
    with pytest.warns(UserWarning, match="do not count: 'GONE'"):
        assert np.isfinite(
            sb.tl.score_signature(unseen, weight, min_matched=0.3, copy=True).obs["signature_score"]
        ).all()
    with pytest.raises(ValueError, match="0 of the 1 genes"):
        sb.tl.score_signature(unseen, ["GONE"], min_matched=0)


def test_an_empty_signature_has_no_score() -> None:
    adata = sb.datasets.planted_donors(effect="none", n_donors=4, n_cells=60, rng=1)
    sb.tl.signature(adata, groupby="label")
    with pytest.raises(
        ValueError, match=r"The signature is empty \(.+\): there is nothing to score"
    ):
        sb.tl.score_signature(adata)
    sb.tl.signature(adata, groupby="label", min_donors=5)
    with pytest.raises(
        ValueError, match=r"The signature is empty \(4 donors have .+\): there is nothing to score"
    ):
        sb.tl.score_signature(adata)


@pytest.mark.parametrize(
    ("signature", "error", "sentence"),
    [
        (None, KeyError, "'signature' is not in adata.uns; .* Run tl.signature first"),
        (
            3,
            TypeError,
            (
                "a DataFrame, a mapping from genes to weights, a list of genes or the path .* "
                "found int"
            ),
        ),
        (
            AnnData(np.ones((1, 1))),
            TypeError,
            r"found AnnData. Of an object that holds one, pass get.signature\(adata\)",
        ),
        ("ITGA4", ValueError, r"not the path of a .gmt file; to score one gene, pass \['ITGA4'\]"),
        ([], ValueError, "The signature is empty: there is no gene to weigh"),
        ({"ITGA4": 0.0}, ValueError, "must be finite and not zero; they are not for 'ITGA4'"),
        (
            {"ITGA4": "high"},
            TypeError,
            "a list of genes for every set; found something else for 'ITGA4'",
        ),
        (["ITGA4", "ITGA4"], ValueError, "must be unique; found more than once: 'ITGA4'"),
        (
            pd.DataFrame({"name": ["ITGA4"]}),
            ValueError,
            "needs the columns 'gene' and 'weight' .* it has 'name'",
        ),
        (
            {"A": ["ITGA4"], "B": ["CD5"]},
            ValueError,
            r"one set of genes, or two whose names end with .*: 'A', 'B'",
        ),
        (
            {"A_UP": ["ITGA4"], "B_DN": ["CD5"]},
            ValueError,
            r"found 2: 'A_UP', 'B_DN'. Choose one: io.read_gmt",
        ),
        (
            {"A_UP": ["ITGA4"], "A_DN": ["ITGA4"]},
            ValueError,
            "must be unique; found more than once: 'ITGA4'",
        ),
    ],
)
def test_other_things_are_refused(found, signature, error, sentence) -> None:
    unseen = found[1]
    with unchanged(unseen), pytest.raises(error, match=sentence):
        sb.tl.score_signature(unseen, signature)


def test_cells_without_a_score_are_named(found) -> None:
    seen, unseen = found
    empty = unseen.copy()
    empty.X = sparse.csr_matrix(unseen.X.multiply((np.arange(unseen.n_obs) != 5)[:, None]))
    with pytest.raises(ValueError, match="1 cells have no counts in X"):
        sb.tl.score_signature(empty, seen.uns["signature"]["genes"])
    flat = AnnData(
        np.array([[1, 1, 1], [0.5, 1, 2]]), var=pd.DataFrame(index=["ITGA4", "CD5", "CD19"])
    )
    for method in ("ulm", "zscore"):
        with pytest.raises(
            ValueError,
            match=f"1 cells have one value .* method='{method}' has no score for them: '0'",
        ):
            sb.tl.score_signature(flat, ["ITGA4"], normalize=False, method=method)
    with pytest.raises(
        ValueError, match=r"method='ulm' holds .* adata has none but the 3 of the signature"
    ):
        sb.tl.score_signature(flat, list(flat.var_names), normalize=False)
    np.testing.assert_allclose(
        score(flat, ["ITGA4", "CD19"], normalize=False, method="waggr"), [1, 1.25]
    )
    with pytest.raises(ValueError, match=r"'other'\] was not written by tl.signature"):
        sb.tl.score_signature(AnnData(flat.X, var=flat.var, uns={"other": {}}), key="other")


def test_decoupler_is_optional(found, monkeypatch) -> None:
    seen, unseen = found
    monkeypatch.setitem(sys.modules, "decoupler", None)
    with pytest.raises(
        ImportError,
        match=r"needs decoupler, which is not installed: pip install 'scbert-cll\[score\]'",
    ):
        sb.tl.score_signature(unseen, seen.uns["signature"]["genes"])


@pytest.mark.realdata
@pytest.mark.filterwarnings("ignore:The inplace keyword")  # decoupler's own
@pytest.mark.parametrize("method", METHODS)
def test_a_hallmark_set_tells_cells_apart(shared_file, method) -> None:
    """The complement set holds granzymes and cathepsins: natural killer cells have them, B cells do
    not.
    """
    adata = ad.read_h5ad(shared_file("data/sorted_pbmc.h5ad"))
    adata = adata[adata.obs["cell_type"].isin(["nk", "bcells"])].copy()
    genes = sb.io.read_gmt(shared_file("data/h.all.v7.4.symbols.gmt"))["HALLMARK_COMPLEMENT"]
    with pytest.warns(
        UserWarning, match="88 of the 200 genes of the signature .* are not in adata"
    ):
        sb.tl.score_signature(adata, genes, method=method)
    assert roc_auc_score(adata.obs["cell_type"] == "nk", adata.obs["signature_score"]) > 0.95


# -- genes by any name
# ---------------------------------------------------------------------------------------------


def named(adata: AnnData) -> tuple[AnnData, AnnData, dict[str, str]]:
    """The cells under symbols, and under ids with versions; and the symbol of each gene."""
    ids = {s: i for i, s in shipped().approved.items() if i.startswith("ENSG") and s != "ITGA4"}
    pairs = [("ITGA4", "ENSG00000115232"), *list(ids.items())[: adata.n_vars - 1]]
    symbols = dict(zip(adata.var_names, (symbol for symbol, _ in pairs), strict=True))
    by_symbol, by_id = adata.copy(), adata.copy()
    by_symbol.var_names = list(symbols.values())
    by_id.var_names = [f"{one}.3" for _, one in pairs]
    return by_symbol, by_id, symbols


@pytest.mark.parametrize("method", METHODS[:3])
def test_a_signature_of_symbols_scores_cells_under_ids(found, method) -> None:
    seen, unseen = found
    by_symbol, by_id, symbols = named(unseen)
    weight = weights_of(seen).rename(index=symbols)
    expected = score(by_symbol, weight, method=method)
    np.testing.assert_allclose(score(by_id, weight, method=method), expected)
    # and the other way round, where ITGA4 has a former name and a genome before it
    ids = dict(zip(by_symbol.var_names, by_id.var_names, strict=True))
    by_symbol.var_names = ["GRCh38_CD49D", *(f"GRCh38_{name}" for name in by_symbol.var_names[1:])]
    weight = weight.rename(index=ids)
    np.testing.assert_allclose(score(by_symbol, weight, method=method), expected)


def test_the_record_says_what_a_gene_is_called_there(found) -> None:
    _, by_id, symbols = named(found[1])
    second = list(symbols.values())[1]
    with pytest.warns(UserWarning, match=r"1 of the 3 genes .* not in adata.*'GONE'"):
        sb.tl.score_signature(by_id, {"CD49D": 1.0, second: 2.0, "GONE": 0.5})
    record = by_id.uns["signature_score"]
    assert record["genes"]["gene"].tolist() == ["CD49D", second, "GONE"]
    assert record["genes"]["found"].tolist() == [True, True, False]
    assert record["genes"]["name"].tolist() == ["ENSG00000115232.3", by_id.var_names[1], ""]


def test_an_exact_name_goes_before_any_other(found) -> None:
    """A gene that the cells hold under the signature's name is that one; its alias is another."""
    unseen = found[1].copy()
    unseen.var_names = ["ITGA4", "CD49D", *unseen.var_names[2:]]
    expected = score(unseen, ["CD49D", *unseen.var_names[5:9]])
    unseen.var_names = ["ITGA4", "X", *unseen.var_names[2:]]
    np.testing.assert_allclose(score(unseen, ["X", *unseen.var_names[5:9]]), expected)
    with pytest.warns(UserWarning, match="'CD49D'"):  # ITGA4 and its alias cannot both be it
        assert score(unseen, ["ITGA4", "CD49D", *unseen.var_names[5:9]]).any()
