"""Gene vectors: co-expressed genes come out close, by name, from training cells only."""

from __future__ import annotations

import functools
import inspect
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.metrics import roc_auc_score

from scbert_cll import tl
from scbert_cll.model import _gene_vectors as private

skip_gram = functools.partial(tl.gene2vec, method="skip_gram")

MODULES = 6


@pytest.fixture(scope="module")
def planted() -> AnnData:
    """600 cells of 4 donors × 150 genes; six modules of 15 genes, each with its own activity per
    cell.
    """
    rng = np.random.default_rng(3)
    module = np.r_[np.repeat(np.arange(MODULES), 15), np.full(60, -1)]
    donor = np.arange(600) % 4
    eta = rng.normal(-0.5, 0.5, 150) + rng.normal(0, 0.5, (4, 150))[donor]
    eta += np.pad(rng.normal(0, 0.8, (600, MODULES)), ((0, 0), (0, 1)))[:, module]
    counts = rng.poisson(np.exp(eta) * rng.lognormal(0, 0.3, (600, 1))).astype(np.float32)
    counts[:, -1] = 0
    counts[0, 0] += 1  # no cell is empty
    adata = AnnData(sparse.csr_matrix(counts))
    adata.obs_names = [f"cell{i}" for i in range(600)]
    adata.var_names = [f"gene{i}" for i in rng.permutation(150)]
    adata.var["module"] = module
    adata.obs["donor"] = pd.Categorical([f"d{i}" for i in donor])
    return adata


def cosine(adata: AnnData, key: str = "gene2vec") -> np.ndarray:
    vectors = adata.varm[key]
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    return unit @ unit.T


def within_auroc(adata: AnnData) -> float:
    """How well the cosine of two module genes tells that their module is the same."""
    inside = adata.var["module"].to_numpy() >= 0
    module = adata.var["module"].to_numpy()[inside]
    upper = np.triu_indices(inside.sum(), 1)
    same = module[:, None] == module[None, :]
    return float(roc_auc_score(same[upper], cosine(adata)[np.ix_(inside, inside)][upper]))


@pytest.mark.parametrize(("donor_key", "size"), [("donor", 1), (None, 1), ("donor", 5)])
def test_genes_of_a_module_are_close(planted: AnnData, donor_key: str | None, size: int) -> None:
    adata = planted.copy()
    assert skip_gram(adata, n_dims=32, donor_key=donor_key, cells_per_metacell=size) is None
    assert adata.varm["gene2vec"].dtype == np.float32
    assert adata.varm["gene2vec"].shape == (150, 32)
    assert within_auroc(adata) > 0.9


def test_without_modules_nothing_is_close(planted: AnnData) -> None:
    rng = np.random.default_rng(0)
    dense = planted.X.toarray()
    shuffled = AnnData(sparse.csr_matrix(rng.permuted(dense, axis=0)), var=planted.var)
    tl.gene2vec(shuffled, n_dims=32)
    assert abs(within_auroc(shuffled) - 0.5) < 0.1


def test_what_differs_between_donors_makes_no_pair(planted: AnnData) -> None:
    """Two genes that follow the donor and nothing else are partners only where donors are not told
    apart.
    """
    adata = planted.copy()
    high = (adata.obs["donor"].isin(["d0", "d1"])).to_numpy()
    dense = adata.X.toarray()
    dense[:, -30:-20] = np.random.default_rng(0).poisson(
        np.where(high, 6.0, 0.4)[:, None], (600, 10)
    )
    adata.X = sparse.csr_matrix(dense)
    apart, together = (
        skip_gram(adata, n_dims=32, donor_key=key, copy=True) for key in ("donor", None)
    )

    def closeness(adata: AnnData) -> float:
        return float(
            cosine(adata)[-30:-20, -30:-20][np.triu_indices(10, 1)].mean()
            - cosine(adata)[-30:-20, :-30].mean()
        )

    assert closeness(together) > 0.3
    assert closeness(apart) < 0.1


def test_same_seed_same_vectors(planted: AnnData) -> None:
    once, again, other = (skip_gram(planted, n_dims=16, rng=seed, copy=True) for seed in (1, 1, 2))
    assert_array_equal(once.varm["gene2vec"], again.varm["gene2vec"])
    assert not np.array_equal(once.varm["gene2vec"], other.varm["gene2vec"])
    from_generator = skip_gram(planted, n_dims=16, rng=np.random.default_rng(1), copy=True)
    assert_array_equal(once.varm["gene2vec"], from_generator.varm["gene2vec"])
    assert from_generator.uns["gene2vec"]["params"]["rng"] == "Generator"


@pytest.mark.parametrize("kind", ["csc", "dense", "csr_array"])
def test_matrix_form_does_not_matter(planted: AnnData, kind: str) -> None:
    forms = {
        "csc": sparse.csc_matrix,
        "dense": lambda x: x.toarray(),
        "csr_array": sparse.csr_array,
    }
    other = planted.copy()
    other.X = forms[kind](planted.X)
    expected = skip_gram(planted, n_dims=8, epochs=2, copy=True)
    skip_gram(other, n_dims=8, epochs=2)
    assert_array_equal(other.varm["gene2vec"], expected.varm["gene2vec"])


def test_held_out_cells_are_not_seen(planted: AnnData) -> None:
    adata = planted.copy()
    adata.obs["split"] = pd.Categorical(np.where(np.arange(600) % 4 == 3, "test", "train"))
    changed = adata.copy()
    changed.X = sparse.vstack(
        [adata.X[[i]][:, :: -1 if i % 4 == 3 else 1] for i in range(600)], format="csr"
    )
    first, second = (tl.gene2vec(a, n_dims=16, copy=True) for a in (adata, changed))
    assert_array_equal(first.varm["gene2vec"], second.varm["gene2vec"])
    assert first.uns["gene2vec"]["n_cells"] == 450
    seen = tl.gene2vec(changed, n_dims=16, split_key=None, copy=True)
    assert not np.array_equal(first.varm["gene2vec"], seen.varm["gene2vec"])
    everything = tl.gene2vec(adata, n_dims=16, split_key=None, copy=True)
    assert everything.uns["gene2vec"]["n_cells"] == 600


def test_undetected_genes_have_zeros_and_are_counted(planted: AnnData) -> None:
    adata = tl.gene2vec(planted, n_dims=16, copy=True)
    has = np.abs(adata.varm["gene2vec"]).sum(axis=1) > 0
    assert not has[-1]
    assert adata.uns["gene2vec"]["n_genes_with_vector"] == has.sum() == 149
    assert adata.uns["gene2vec"]["n_genes"] == 150


def test_metacells_keep_every_cell_once_and_their_size(planted: AnnData) -> None:
    groups = private._metacells(planted.X, planted.X.sum(axis=1).A1, 20)
    assert_array_equal(np.sort(np.concatenate(groups)), np.arange(600))
    assert all(20 <= len(g) < 40 for g in groups)
    capped = skip_gram(planted, n_dims=8, n_metacells=50, copy=True)
    assert capped.uns["gene2vec"]["n_metacells"] <= 50


@pytest.mark.parametrize(
    "k", [3, 25, 100]
)  # beyond the positive correlations, and beyond the number of genes
def test_partners_in_blocks_equal_the_whole_correlation_matrix(
    k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).normal(size=(40, 30))
    unit = (values - values.mean(axis=0)).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=0)
    monkeypatch.setattr(private, "_BLOCK", 7)
    r = np.corrcoef(values.T)
    np.fill_diagonal(r, -2)
    expected = {
        tuple(sorted((i, int(j)))) for i in range(30) for j in np.argsort(r[i])[-k:] if r[i, j] > 0
    }
    assert {tuple(map(int, p)) for p in private._partners(unit, k)} == expected


def test_survives_h5ad(planted: AnnData, tmp_path: Path) -> None:
    adata = skip_gram(planted, n_dims=8, key_added="vectors", copy=True)
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    assert_array_equal(back.varm["vectors"], adata.varm["vectors"])
    assert back.uns["vectors"]["params"]["n_dims"] == 8
    assert back.uns["vectors"]["n_pairs"] == adata.uns["vectors"]["n_pairs"]


# -- ready vectors
# --------------------------------------------------------------------------------------------------


@pytest.fixture
def table(planted: AnnData) -> pd.DataFrame:
    """Vectors of all genes but two, and of some that the data do not have, in another order."""
    rng = np.random.default_rng(5)
    names = [*planted.var_names[2:], "OTHER1", "OTHER2"]
    return pd.DataFrame(rng.normal(size=(len(names), 6)).astype(np.float32), index=names).sample(
        frac=1, random_state=1
    )


def keyed(table: pd.DataFrame) -> Any:
    gensim = pytest.importorskip("gensim.models", reason="needs the extra gene2vec")
    vectors = gensim.KeyedVectors(table.shape[1])
    vectors.add_vectors(table.index.tolist(), table.to_numpy())
    return vectors


def as_form(table: pd.DataFrame, form: str, folder: Path) -> object:
    folder.mkdir(exist_ok=True)
    match form:
        case "DataFrame":
            return table
        case "KeyedVectors":
            return keyed(table)
        case "text" | "binary":
            keyed(table).save_word2vec_format(str(folder / "v"), binary=form == "binary")
            return folder / "v"
        case "tabs, no header":
            lines = (
                f"{gene}\t{' '.join(map(repr, map(float, row)))}\n" for gene, row in table.T.items()
            )
            (folder / "v.txt").write_text("".join(lines))
            return str(folder / "v.txt")
    np.save(folder / "v.npy", table.to_numpy())
    (folder / ("v.txt" if form == "npy" else "genes.txt")).write_text("\n".join(table.index) + "\n")
    return {
        "npy": folder / "v.npy",
        "npy, names file": (folder / "v.npy", folder / "genes.txt"),
        "npy, names": (folder / "v.npy", table.index.tolist()),
    }[form]


FORMS = [
    "DataFrame",
    "KeyedVectors",
    "text",
    "binary",
    "tabs, no header",
    "npy",
    "npy, names file",
    "npy, names",
]


@pytest.mark.parametrize("form", FORMS)
def test_ready_vectors_go_by_name(
    planted: AnnData, table: pd.DataFrame, tmp_path: Path, form: str
) -> None:
    adata = tl.gene2vec(planted, vectors=as_form(table, form, tmp_path), copy=True)
    expected = table.reindex(planted.var_names).fillna(0).to_numpy()
    assert_allclose(adata.varm["gene2vec"], expected, rtol=1e-5, atol=1e-6)  # text formats round
    assert adata.uns["gene2vec"]["n_genes_with_vector"] == 148
    shuffled = as_form(table.iloc[::-1], form, tmp_path)
    assert_array_equal(
        tl.gene2vec(planted, vectors=shuffled, copy=True).varm["gene2vec"], adata.varm["gene2vec"]
    )


def test_ready_vectors_need_no_counts(planted: AnnData, table: pd.DataFrame) -> None:
    adata = planted.copy()
    adata.X = adata.X.log1p()
    tl.gene2vec(adata, vectors=table)
    assert adata.uns["gene2vec"]["params"]["source"] == "DataFrame"


# -- bad input
# --------------------------------------------------------------------------------------------------


def bad_vectors(case: str, table: pd.DataFrame, folder: Path) -> object:
    """One broken form of vectors per case."""
    match case:
        case "other names":
            return table.rename(index="ENSG_{}".format)
        case "duplicated":
            return pd.concat([table, table.iloc[:1]])
        case "nan":
            return table.mask(table == table.iloc[3, 2])
        case "type":
            return {"gene1": [1.0]}
        case "missing file":
            return folder / "no.txt"
        case "pickle":
            np.save(folder / "v.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
            (folder / "v.txt").write_text("gene1\n")
            return folder / "v.npy"
        case "row count":
            np.save(folder / "v.npy", table.to_numpy())
            return folder / "v.npy", table.index[:-1].tolist()
        case "names of text":
            return folder / "v.txt", ["gene1"]
    keyed(table).save_word2vec_format(str(folder / "v.bin"), binary=True)
    whole = (folder / "v.bin").read_bytes()
    (folder / "v.bin").write_bytes(whole[: len(whole) // 2])
    return folder / "v.bin"


@pytest.mark.parametrize(
    ("case", "error", "message"),
    [
        ("other names", ValueError, r"0 of 150 genes.*expected at least 50%.*'gene.*'ENSG_"),
        ("duplicated", ValueError, "gene names of vectors must be unique"),
        ("nan", ValueError, "non-finite values for 1 genes"),
        ("type", TypeError, "found dict"),
        ("missing file", FileNotFoundError, r"vectors: There is no file .*no\.txt"),
        ("pickle", ValueError, "cannot be read.*Python objects"),
        ("row count", ValueError, r"shape is \(150, 6\), and there are 149 gene names"),
        ("names of text", ValueError, r"beside a \.npy file only"),
        ("truncated", ValueError, "cannot be read.*Expected word2vec text or binary"),
    ],
)
def test_bad_vectors(
    planted: AnnData,
    table: pd.DataFrame,
    tmp_path: Path,
    case: str,
    error: type[Exception],
    message: str,
) -> None:
    adata = planted.copy()
    with pytest.raises(error, match=message):
        tl.gene2vec(adata, vectors=bad_vectors(case, table, tmp_path))
    assert not adata.varm
    assert not adata.uns


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"layer": "raw"}, KeyError, "'raw' is not in adata.layers"),
        ({"donor_key": "patient"}, KeyError, "'patient' is not in adata.obs; it has 'donor'"),
        ({"split_key": "fold"}, KeyError, "'fold' is not in adata.obs"),
        ({"n_dims": 0}, ValueError, "n_dims must be"),
        ({"epochs": 2.5}, ValueError, "epochs must be"),
        ({"min_detected": 5}, ValueError, "min_detected must be"),
        ({"vectors": pd.DataFrame(), "min_matched": -1}, ValueError, "min_matched must be"),
        ({"cells_per_metacell": 100}, ValueError, "a correlation needs at least 10"),
        ({"min_detected": 1}, ValueError, "No two genes are co-expressed"),
    ],
)
def test_bad_options(
    planted: AnnData, options: dict[str, object], error: type[Exception], message: str
) -> None:
    adata = planted.copy()
    with pytest.raises(error, match=message):
        skip_gram(adata, **options)
    assert not adata.varm
    assert not adata.uns


def test_bad_matrix(planted: AnnData) -> None:
    with pytest.raises(ValueError, match="looks log-transformed"):
        tl.gene2vec(AnnData(planted.X.log1p(), var=planted.var))
    empty = planted.copy()
    empty.X = sparse.diags((np.arange(600) != 3).astype(np.float32)) @ empty.X
    with pytest.raises(
        ValueError, match=r"1 cells have no counts in the training cells \('cell3'\)"
    ):
        tl.gene2vec(empty)
    with pytest.raises(ValueError, match="view of another AnnData"):
        tl.gene2vec(planted[:, :100], n_dims=4, epochs=1)
    with pytest.raises(TypeError, match="Expected an AnnData, found DataFrame"):
        tl.gene2vec(pd.DataFrame())


def test_copy_leaves_the_original(planted: AnnData) -> None:
    before = planted.copy()
    out = tl.gene2vec(planted[:, :100], n_dims=4, epochs=1, copy=True)
    assert out.varm["gene2vec"].shape == (100, 4)
    assert not planted.varm
    assert (planted.X != before.X).nnz == 0


@pytest.mark.realdata
def test_hallmark_genes_are_closer_than_chance(shared_file) -> None:
    """Two genes of one MSigDB hallmark set lie closer than two genes of different sets."""
    adata = ad.read_h5ad(shared_file("data/sorted_pbmc.h5ad"))
    sets = [
        set(line.split("\t")[2:])
        for line in shared_file("data/h.all.v7.4.symbols.gmt").read_text().splitlines()
    ]
    tl.gene2vec(adata, n_dims=50, min_detected=0.1)
    member = np.array([[gene in s for s in sets] for gene in adata.var_names], dtype=np.float32)
    used = (member.sum(axis=1) > 0) & (np.abs(adata.varm["gene2vec"]).sum(axis=1) > 0)
    upper = np.triu_indices(used.sum(), 1)
    same = (member[used] @ member[used].T)[upper] > 0
    auroc = roc_auc_score(same, cosine(adata)[np.ix_(used, used)][upper])
    assert auroc > 0.54  # 0.560 when written; the correlations themselves reach 0.555


# ---- by singular values


def test_products_of_vectors_are_correlations(planted: AnnData) -> None:
    """With as many dimensions as genes, the product of two vectors is the correlation of the two
    genes, to a scale.
    """
    few = planted[:, :40].copy()
    tl.gene2vec(few, n_dims=40, min_detected=0.0)
    x = few.X.toarray().astype(float)
    r = np.corrcoef(np.log2(1 + 1e4 * x / x.sum(1, keepdims=True)), rowvar=False)
    products = few.varm["gene2vec"] @ few.varm["gene2vec"].T
    apart = ~np.eye(40, dtype=bool)
    assert (
        np.corrcoef(products[apart], r[apart])[0, 1] > 0.97
    )  # the solver leaves one direction of forty out


def test_genes_of_a_module_are_close_by_singular_values(planted: AnnData) -> None:
    adata = tl.gene2vec(planted, n_dims=16, copy=True)
    assert within_auroc(adata) > 0.9
    assert adata.uns["gene2vec"]["params"]["method"] == "svd"
    vectors = adata.varm["gene2vec"][np.abs(adata.varm["gene2vec"]).max(axis=1) > 0]
    assert np.sqrt(np.mean(vectors**2)) == pytest.approx(1, abs=1e-5)
    again = tl.gene2vec(planted, n_dims=16, copy=True)
    assert_array_equal(adata.varm["gene2vec"], again.varm["gene2vec"])


def test_dimensions_that_the_cells_do_not_span_are_zero(planted: AnnData) -> None:
    few = planted[:12].copy()
    tl.gene2vec(few, n_dims=30, min_detected=0.0)
    used = np.abs(few.varm["gene2vec"]).max(axis=0) > 0
    assert used[:11].all()
    assert not used[11:].any()
    with pytest.raises(
        ValueError, match=r"vectors need two of each\. Use more cells, lower min_detected"
    ):
        tl.gene2vec(planted, min_detected=1.0)
    with pytest.raises(ValueError, match="method must be one of"):
        tl.gene2vec(planted, method="pca")


def test_the_estimators_defaults_are_those_of_the_function() -> None:
    defaults = {name: p.default for name, p in inspect.signature(tl.gene2vec).parameters.items()}
    expected = asdict(private.SKIP_GRAM)
    assert {name: defaults[name] for name in expected} == expected


def test_donors_that_would_not_be_looked_at_are_refused(planted: AnnData) -> None:
    with pytest.raises(
        ValueError,
        match=r"donor_key='patient' has no effect on method='svd'.*Leave donor_key out, or choose "
        r"method=\"skip_gram\"",
    ):
        tl.gene2vec(planted, n_dims=8, donor_key="patient")
    ready = pd.DataFrame(np.ones((planted.n_vars, 4)), planted.var_names)
    with pytest.raises(
        ValueError, match=r"donor_key='patient' has no effect on ready vectors \(vectors=\)"
    ):
        tl.gene2vec(planted, vectors=ready, method="skip_gram", donor_key="patient")


def test_the_default_donor_column_tells_donors_apart_where_it_can(planted: AnnData) -> None:
    options = {"n_dims": 8, "epochs": 1, "copy": True}
    by_default, named = (
        skip_gram(planted, **options, **more) for more in ({}, {"donor_key": "donor"})
    )
    together = skip_gram(planted, donor_key=None, **options)
    assert_array_equal(by_default.varm["gene2vec"], named.varm["gene2vec"])
    assert not np.array_equal(by_default.varm["gene2vec"], together.varm["gene2vec"])
    assert by_default.uns["gene2vec"]["params"]["donor_key"] == "donor"

    nameless = planted.copy()
    del nameless.obs["donor"]
    with pytest.warns(FutureWarning, match=r"no column 'donor'.*donor_key=None"):
        alone = skip_gram(nameless, **options)
    assert_array_equal(alone.varm["gene2vec"], together.varm["gene2vec"])
    first, second = (tl.gene2vec(adata, n_dims=8, copy=True) for adata in (planted, nameless))
    assert_array_equal(first.varm["gene2vec"], second.varm["gene2vec"])


def test_without_gensim_everything_but_skip_gram(
    planted: AnnData, table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forms = {form: as_form(table, form, tmp_path / form) for form in ("text", "binary", "npy")}
    for name in [name for name in sys.modules if name.partition(".")[0] == "gensim"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gensim", None)
    tl.gene2vec(planted, n_dims=8, copy=True)
    for vectors in (*forms.values(), table):
        assert tl.gene2vec(planted, vectors=vectors, copy=True).varm["gene2vec"].shape == (150, 6)
    before = planted.copy()
    with pytest.raises(
        ImportError, match=r"skip_gram.* needs gensim.* pip install 'scbert-cll\[gene2vec\]'"
    ):
        skip_gram(planted, n_dims=8)
    assert planted.varm.keys() == before.varm.keys()
    assert planted.uns.keys() == before.uns.keys()
