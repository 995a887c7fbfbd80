from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

from scbert_cll import _binning, pp

METHODS = ("log2", "uniform", "quantile", "gene_quantile")
FORMS = {
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
    "csc_array": sparse.csc_array,
    "dense": np.asarray,
}


def made(counts: np.ndarray, form: str = "csr", **kwargs: object) -> ad.AnnData:
    obs = pd.DataFrame(index=[f"c{i}" for i in range(counts.shape[0])])
    var = pd.DataFrame(index=[f"g{i}" for i in range(counts.shape[1])])
    return ad.AnnData(FORMS[form](counts), obs=obs, var=var, **kwargs)


def binned(counts: np.ndarray | ad.AnnData, **kwargs: object) -> np.ndarray:
    adata = counts if isinstance(counts, ad.AnnData) else made(counts)
    return pp.bin_expression(adata, copy=True, **kwargs).layers["binned"].toarray()


def simulated(n_cells: int = 40, n_genes: int = 60, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(
        rng.lognormal(sigma=1.5, size=n_genes) * rng.lognormal(sigma=0.5, size=(n_cells, 1))
    )
    counts[counts.sum(1) == 0, 0] = 1
    return counts.astype(np.float32)


count_matrices = hnp.arrays(
    np.int64,
    st.tuples(st.integers(1, 12), st.integers(1, 15)),
    elements=st.sampled_from([0, 0, 0, 1, 1, 2, 3, 7, 40, 999]),
).filter(lambda m: (m.sum(1) > 0).all())
methods = st.sampled_from(METHODS)
bins = st.integers(1, 254)


# --- definitions


@pytest.mark.parametrize(
    ("count", "total", "token"),
    [
        *[(1, 1_000, 3), (1, 2_000, 2), (1, 3_000, 2), (1, 5_000, 1), (1, 10_000, 1)],
        *[(2, 1_000, 4), (2, 2_000, 3), (2, 3_000, 2), (2, 5_000, 2), (2, 10_000, 1)],
        *[(1, 3_333, 2), (1, 3_334, 1), (1, 10_001, 0), (10_000, 10_001, 5)],
    ],
)
def test_log2_gives_scberts_tokens(count: int, total: int, token: int) -> None:
    assert binned(np.array([[count, total - count]]))[0, 0] == token


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5])
def test_log2_is_exact_on_both_sides_of_a_power_of_two(step: int) -> None:
    # 1 + 1e4 c / N is 2^step exactly at c = 2^step - 1, N = 1e4; with N one count larger it is just
    # below.
    count = 2**step - 1
    assert binned(np.array([[count, 10_000 - count]]))[0, 0] == step
    assert binned(np.array([[count, 10_001 - count]]))[0, 0] == step - 1
    deep = 10**9
    assert binned(np.array([[count * deep, 10_000 * deep - count * deep]]))[0, 0] == step
    assert (
        binned(np.array([[count * deep - 1, 10_000 * deep - count * deep + 1]]))[0, 0] == step - 1
    )


@given(count_matrices, st.integers(1, 20))
def test_log2_is_the_naive_formula(counts: np.ndarray, n_bins: int) -> None:
    naive = np.minimum(np.trunc(np.log2(1 + 1e4 * counts / counts.sum(1, keepdims=True))), n_bins)
    np.testing.assert_array_equal(binned(counts, n_bins=n_bins), naive)


def test_log2_agrees_with_scanpys_normalisation() -> None:
    adata = made(simulated(200, 300))
    tokens = binned(adata)
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata, base=2)
    values = adata.X.toarray()
    clear = np.abs(values - np.round(values)) > 1e-5  # scanpy computes in float32
    np.testing.assert_array_equal(tokens[clear], np.minimum(values, 5).astype(int)[clear])
    assert clear.mean() > 0.2
    assert set(np.unique(tokens)) >= {0, 3, 5}


def test_target_sum_counts() -> None:
    counts = np.array([[1, 99]])
    assert binned(counts, target_sum=100, n_bins=254).tolist() == [[1, 6]]
    assert binned(counts, target_sum=1e6, n_bins=254).tolist() == [[13, 19]]


@pytest.mark.parametrize("n_bins", [1, 2, 5, 17, 254])
def test_uniform_is_equal_width_over_the_fitted_range(n_bins: int) -> None:
    counts = simulated()
    v = np.log2(1 + 1e4 * counts.astype(float) / counts.sum(1, keepdims=True, dtype=float))
    edges = np.linspace(0, v.max(), n_bins + 1)
    expected = np.where(
        v > 0, np.clip(np.searchsorted(edges, v + 1e-12, side="right"), 1, n_bins), 0
    )
    tokens = binned(counts, method="uniform", n_bins=n_bins)
    np.testing.assert_array_equal(tokens, expected)
    assert tokens[np.unravel_index(v.argmax(), v.shape)] == n_bins  # the upper end is inside
    cut = pp.bin_expression(made(counts), method="uniform", n_bins=n_bins, copy=True).uns["binned"][
        "edges"
    ]
    np.testing.assert_allclose(np.log2(1 + cut), edges[:-1], atol=1e-12)


def scgpt_digits(row: np.ndarray, n_bins: int) -> np.ndarray:
    """scGPT's edges and left digits, with `n_bins` not counting zero, through numpy's own
    quantiles.
    """
    digits = np.zeros(len(row), dtype=int)
    expressed = row[row > 0]
    edges = np.quantile(expressed, np.linspace(0, 1, n_bins))
    # An edge that falls on a count may come out of the interpolation 1e-16 above it; counts are
    # whole.
    digits[row > 0] = np.digitize(expressed, edges - 1e-6)
    return digits


@given(count_matrices, st.integers(1, 60))
def test_quantile_is_scgpts_digits_without_noise(counts: np.ndarray, n_bins: int) -> None:
    expected = [scgpt_digits(row, n_bins) for row in counts]
    np.testing.assert_array_equal(binned(counts, method="quantile", n_bins=n_bins), expected)


def test_quantile_by_hand() -> None:
    counts = np.array(
        [[1, 2, 3, 4, 5, 0], [1, 1, 1, 1, 9, 0], [0, 0, 0, 0, 0, 3], [1, 1, 0, 0, 0, 0]]
    )
    expected = [[1, 2, 3, 4, 5, 0], [4, 4, 4, 4, 5, 0], [0, 0, 0, 0, 0, 5], [5, 5, 0, 0, 0, 0]]
    assert binned(counts, method="quantile").tolist() == expected


def test_gene_quantile_by_hand() -> None:
    # every cell has 1,000 counts, so order of counts is order of levels; g0 1..8, g1 constant, g2
    # never, g3 the rest
    counts = np.array([[i, 5, 0, 995 - i] for i in range(1, 9)])
    adata = made(counts)
    pp.bin_expression(adata, method="gene_quantile", n_bins=4)
    assert adata.layers["binned"].toarray()[:, 0].tolist() == [1, 1, 2, 2, 3, 3, 4, 4]
    assert adata.layers["binned"].toarray()[:, 1].tolist() == [1] * 8
    edges = adata.uns["binned"]["edges"]
    assert edges.index.tolist() == ["g0", "g1", "g2", "g3"]
    np.testing.assert_allclose(edges.loc["g0"], [0, 20, 40, 60])
    assert np.isinf(edges.loc["g2"]).all()
    other = made(np.array([[9, 6, 2, 983], [0, 4, 0, 996]]))
    pp.bin_expression(other, edges=adata.uns["binned"])
    assert other.layers["binned"].toarray()[:, :3].tolist() == [[4, 4, 0], [0, 1, 0]]


@given(count_matrices, st.integers(1, 9))
def test_gene_quantile_is_the_inverted_distribution_function(
    counts: np.ndarray, n_bins: int
) -> None:
    x = 1e4 * counts / counts.sum(1, keepdims=True)
    tokens = binned(counts, method="gene_quantile", n_bins=n_bins)
    for gene in range(counts.shape[1]):
        seen = np.sort(x[:, gene][x[:, gene] > 0])
        if not len(seen):
            assert (tokens[:, gene] == 0).all()
            continue
        edges = [seen[(k * len(seen) + n_bins - 1) // n_bins - 1] for k in range(1, n_bins)]
        for value, token in zip(x[:, gene], tokens[:, gene], strict=True):
            assert token == (0 if value == 0 else 1 + sum(value > e for e in edges))


def test_gene_quantile_tokens_are_about_equally_common() -> None:
    counts = np.random.default_rng(0).poisson(200, size=(500, 20))
    share = [(binned(counts, method="gene_quantile") == t).mean() for t in range(1, 6)]
    np.testing.assert_allclose(share, 0.2, atol=0.01)


# --- properties


@given(count_matrices, methods, bins)
def test_range_and_zeros(counts: np.ndarray, method: str, n_bins: int) -> None:
    tokens = binned(counts, method=method, n_bins=n_bins)
    assert tokens.dtype == np.uint8
    assert tokens.max() <= n_bins
    assert (tokens[counts == 0] == 0).all()
    if method != "log2":  # log2: a gene below one count in target_sum is 0, by definition
        assert (tokens[counts > 0] > 0).all()


@given(count_matrices, st.sampled_from(["log2", "uniform", "quantile"]), bins)
def test_monotone_within_a_cell(counts: np.ndarray, method: str, n_bins: int) -> None:
    tokens = binned(counts, method=method, n_bins=n_bins)
    for row, cell in zip(counts, tokens, strict=True):
        assert (np.diff(cell[np.argsort(row, kind="stable")].astype(int)) >= 0).all()
        for value in np.unique(row):
            assert len(np.unique(cell[row == value])) == 1


@given(
    count_matrices,
    methods,
    bins,
    st.sampled_from(list(FORMS)),
    st.sampled_from(["f4", "f8", "i4", "i8", "u2"]),
)
def test_form_and_type_of_the_matrix_do_not_matter(
    counts: np.ndarray, method: str, n_bins: int, form: str, dtype: str
) -> None:
    adata = made(counts.astype(dtype), form)
    before = adata.X.copy()
    pp.bin_expression(adata, method=method, n_bins=n_bins)
    layer = adata.layers["binned"]
    assert isinstance(layer, sparse.csr_matrix)
    assert layer.has_canonical_format
    assert layer.data.all()
    np.testing.assert_array_equal(layer.toarray(), binned(counts, method=method, n_bins=n_bins))
    assert type(adata.X) is type(before)
    assert adata.X.dtype == before.dtype
    np.testing.assert_array_equal(sparse.csr_matrix(adata.X).toarray(), counts)


@given(count_matrices, methods, bins, st.randoms(use_true_random=False))
def test_order_of_cells_and_genes_does_not_matter(
    counts: np.ndarray, method: str, n_bins: int, random: object
) -> None:
    cells = random.sample(range(counts.shape[0]), counts.shape[0])
    genes = random.sample(range(counts.shape[1]), counts.shape[1])
    tokens = binned(counts, method=method, n_bins=n_bins)
    np.testing.assert_array_equal(
        binned(counts[cells][:, genes], method=method, n_bins=n_bins), tokens[cells][:, genes]
    )


@given(count_matrices, bins, st.integers(1, 1_000))
def test_quantile_does_not_depend_on_scale(counts: np.ndarray, n_bins: int, factor: int) -> None:
    tokens = binned(counts, method="quantile", n_bins=n_bins)
    np.testing.assert_array_equal(binned(counts * factor, method="quantile", n_bins=n_bins), tokens)
    np.testing.assert_array_equal(binned(counts**2, method="quantile", n_bins=n_bins), tokens)


@given(count_matrices, methods, bins)
def test_the_record_reproduces_the_tokens(counts: np.ndarray, method: str, n_bins: int) -> None:
    adata = made(counts)
    pp.bin_expression(adata, method=method, n_bins=n_bins)
    again = made(counts)
    pp.bin_expression(again, edges=adata.uns["binned"])
    np.testing.assert_array_equal(
        again.layers["binned"].toarray(), adata.layers["binned"].toarray()
    )
    learned = {
        k: v for k, v in adata.uns["binned"]["params"].items() if k not in ("n_fit_cells", "edges")
    }
    assert again.uns["binned"]["params"] == learned | {"edges": "given"}


@settings(max_examples=30)
@given(
    count_matrices.filter(lambda m: len(m) > 1),
    st.sampled_from(["uniform", "gene_quantile"]),
    bins,
    st.data(),
)
def test_cells_that_are_held_out_change_nothing(
    counts: np.ndarray, method: str, n_bins: int, data: st.DataObject
) -> None:
    fit = np.array(
        data.draw(st.lists(st.booleans(), min_size=len(counts), max_size=len(counts)).filter(any))
    )
    other = counts.copy()
    other[~fit] = other[~fit][:, ::-1] * 3 + 1
    one, two = (binned(m, method=method, n_bins=n_bins, fit_on=fit) for m in (counts, other))
    np.testing.assert_array_equal(one[fit], two[fit])
    np.testing.assert_array_equal(one[fit], binned(counts[fit], method=method, n_bins=n_bins))


def test_blocks_leave_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = simulated(50, 40)
    whole = {m: binned(counts, method=m, n_bins=60) for m in METHODS}
    monkeypatch.setattr(_binning, "_BLOCK", 7)
    monkeypatch.setattr(_binning, "_GENE_BLOCK", 30)
    monkeypatch.setattr(_binning, "_FEW_EDGES", 0)
    for method, tokens in whole.items():
        np.testing.assert_array_equal(binned(counts, method=method, n_bins=60), tokens)


# --- edges


def fitted(method: str, **kwargs: object) -> ad.AnnData:
    adata = made(simulated(seed=1))
    pp.bin_expression(adata, method=method, **kwargs)
    return adata


@pytest.mark.parametrize("method", ["uniform", "gene_quantile"])
def test_new_data_are_cut_at_the_given_edges(method: str) -> None:
    train, new = fitted(method, n_bins=7), made(simulated(30, 60, seed=2))
    pp.bin_expression(new, edges=train.uns["binned"])
    both = ad.concat([train, new], index_unique="-", keys=["train", "new"])
    both.obs["is_train"] = np.arange(70) < 40
    pp.bin_expression(both, method=method, n_bins=7, fit_on="is_train")
    np.testing.assert_array_equal(
        new.layers["binned"].toarray(), both.layers["binned"].toarray()[40:]
    )
    # not trivially: edges of the new data's own are others
    assert (binned(new, method=method, n_bins=7) != new.layers["binned"].toarray()).any()


def test_values_above_the_fitted_range_get_the_last_bin() -> None:
    train = made(np.array([[10, 490, 500]]))
    pp.bin_expression(train, method="uniform", n_bins=3)
    new = made(np.array([[1, 0, 999]]))
    pp.bin_expression(new, edges=train.uns["binned"])
    assert new.layers["binned"].toarray().tolist() == [[1, 0, 3]]


def test_edges_of_genes_go_by_name() -> None:
    train = fitted("gene_quantile")
    shuffled = train[:, ::-1].copy()
    pp.bin_expression(shuffled, edges=train.uns["binned"])
    np.testing.assert_array_equal(
        shuffled.layers["binned"].toarray(), train.layers["binned"].toarray()[:, ::-1]
    )


def test_edges_of_other_genes_are_refused() -> None:
    train, new = fitted("gene_quantile"), made(simulated(seed=2))
    new.var_names = ["VCAM1", *new.var_names[1:]]
    with pytest.raises(ValueError, match=r"without edges 'VCAM1'; edges without a gene 'g0'"):
        pp.bin_expression(new, edges=train.uns["binned"])


@pytest.mark.parametrize("method", METHODS)
def test_everything_survives_h5ad(method: str, tmp_path: object) -> None:
    train = fitted(method, n_bins=6, target_sum=5e3, key_added="tokens")
    train.write_h5ad(tmp_path / "train.h5ad")
    back = ad.read_h5ad(tmp_path / "train.h5ad")
    np.testing.assert_array_equal(back.layers["tokens"].toarray(), train.layers["tokens"].toarray())
    assert back.layers["tokens"].dtype == np.uint8
    new, same = made(simulated(seed=2)), made(simulated(seed=2))
    pp.bin_expression(new, edges=train.uns["tokens"])
    pp.bin_expression(same, edges=back.uns["tokens"])
    np.testing.assert_array_equal(new.layers["binned"].toarray(), same.layers["binned"].toarray())
    params = {
        "method": method,
        "n_bins": 6,
        "target_sum": 5e3,
        "layer": "X",
        "fit_on": "none",
        "edges": "given",
        "n_genes": 60,
    }
    assert new.uns["binned"]["params"] == same.uns["binned"]["params"]
    assert new.uns["binned"]["params"].items() >= params.items()


def test_parameters_that_contradict_the_edges_are_refused() -> None:
    record = fitted("uniform", n_bins=7).uns["binned"]
    new = made(simulated())
    pp.bin_expression(new, method="uniform", n_bins=7, edges=record)
    with pytest.raises(ValueError, match=r"other parameters than n_bins=6 \(edges: 7\)"):
        pp.bin_expression(new, n_bins=6, edges=record)
    with pytest.raises(ValueError, match=r"method='quantile' \(edges: 'uniform'\)"):
        pp.bin_expression(new, method="quantile", edges=record)
    with pytest.raises(ValueError, match="either edges or fit_on"):
        pp.bin_expression(new, edges=record, fit_on=np.ones(40, dtype=bool))
    with pytest.raises(ValueError, match=r"whole entry .* adata.uns\['binned'\]"):
        pp.bin_expression(new, edges=record["edges"])


# --- fit_on


@pytest.mark.parametrize("method", ["uniform", "gene_quantile"])
def test_mask_column_and_split_choose_the_same_cells(method: str) -> None:
    adata = made(simulated())
    mask = np.arange(40) % 3 == 0
    adata.obs["mine"] = mask
    adata.obs["split"] = pd.Categorical(np.where(mask, "train", "test"))
    tokens = binned(adata, method=method, fit_on=mask)
    np.testing.assert_array_equal(binned(adata, method=method, fit_on="mine"), tokens)
    np.testing.assert_array_equal(binned(adata, method=method, fit_on="split"), tokens)
    assert (binned(adata, method=method) != tokens).any()
    pp.bin_expression(adata, method=method, fit_on="split")
    assert adata.uns["binned"]["params"]["n_fit_cells"] == mask.sum() == 14


@pytest.mark.parametrize(
    ("fit_on", "error", "message"),
    [
        ("nope", KeyError, "'nope' is not in adata.obs; it has 'fold', 'holes'"),
        ("fold", ValueError, "may hold 'train', 'val', 'test'; found also 'a'"),
        ("holes", ValueError, "is missing for 1 cells"),
        (np.zeros(40, dtype=bool), ValueError, "at least one cell.*0 true"),
        (np.ones(39, dtype=bool), ValueError, r"shape \(39,\)"),
        (np.arange(40), ValueError, "found int64"),
    ],
)
def test_fit_on_is_checked(fit_on: object, error: type[Exception], message: str) -> None:
    adata = made(simulated())
    adata.obs["fold"] = "a"
    adata.obs["holes"] = pd.array([True] * 39 + [None], dtype="boolean")
    with pytest.raises(error, match=message):
        pp.bin_expression(adata, method="uniform", fit_on=fit_on)


# --- slots


def test_in_place_and_copy() -> None:
    adata = made(simulated())
    done = pp.bin_expression(adata, copy=True)
    assert "binned" not in adata.layers
    assert "binned" not in adata.uns
    assert pp.bin_expression(adata) is None
    np.testing.assert_array_equal(adata.layers["binned"].toarray(), done.layers["binned"].toarray())
    params = {
        "method": "log2",
        "n_bins": 5,
        "target_sum": 1e4,
        "layer": "X",
        "fit_on": "none",
        "edges": "none",
        "n_genes": 60,
    }
    assert adata.uns["binned"]["params"].items() >= params.items()
    np.testing.assert_array_equal(adata.uns["binned"]["edges"], [1, 3, 7, 15, 31])


def test_counts_in_a_layer_and_logarithms_in_x() -> None:
    adata = made(simulated())
    adata.layers["counts"] = adata.X.copy()
    tokens = binned(adata)
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    np.testing.assert_array_equal(binned(adata, layer="counts"), tokens)
    pp.bin_expression(adata, layer="counts", key_added="tokens")
    assert adata.uns["tokens"]["params"]["layer"] == "counts"


def test_scanpy_in_place_does_not_reach_the_tokens() -> None:
    adata = made(simulated())
    pp.bin_expression(adata)
    before = adata.layers["binned"].toarray()
    assert not np.shares_memory(adata.X.indices, adata.layers["binned"].indices)
    adata.X.data[::2] = 0
    adata.X.eliminate_zeros()
    np.testing.assert_array_equal(adata.layers["binned"].toarray(), before)


@pytest.mark.parametrize("method", METHODS)
def test_stored_zeros_and_unsorted_indices(method: str) -> None:
    counts = simulated()
    adata = made(counts)
    messy = sparse.csr_matrix(np.where(counts == 0, 99, counts))
    messy.data[messy.data == 99] = 0
    messy.indices[: messy.indptr[1]] = messy.indices[: messy.indptr[1]][::-1]
    messy.data[: messy.indptr[1]] = messy.data[: messy.indptr[1]][::-1]
    messy.has_sorted_indices = False
    adata.X = messy
    before = adata.X.nnz, adata.X.indices.copy()
    np.testing.assert_array_equal(binned(adata, method=method), binned(counts, method=method))
    assert adata.X.nnz == before[0]
    np.testing.assert_array_equal(adata.X.indices, before[1])


def test_genes_without_counts_are_fine() -> None:
    counts = simulated()
    counts[:, 5] = 0
    for method in METHODS:
        assert (binned(counts, method=method)[:, 5] == 0).all()


def test_stored_zeros_of_a_tidy_matrix_stay_the_users() -> None:
    adata = made(np.array([[3, 5], [4, 7]]))
    adata.X.data[0] = 0
    pp.bin_expression(adata, method="uniform")
    assert adata.X.nnz == 4
    assert adata.X.indices.tolist() == [0, 1, 0, 1]
    assert adata.layers["binned"].nnz == 3


def test_expressed_genes_of_token_0_are_not_stored() -> None:
    adata = made(np.array([[1, 20_000, 0], [1, 9, 1]]))
    pp.bin_expression(adata)
    assert adata.layers["binned"].toarray().tolist() == [[0, 5, 0], [5, 5, 5]]
    assert adata.layers["binned"].nnz == 4


def test_totals_are_exact_where_float32_is_not() -> None:
    # The total is 2^24 + 1, which float32 cannot hold; with a target_sum just below it, one count
    # stays below 1.
    adata = made(np.array([[2**24, 1]], dtype=np.float32))
    pp.bin_expression(adata, target_sum=2**24 + 0.5, n_bins=20)
    assert adata.layers["binned"].toarray().tolist() == [[20, 0]]


# --- bad input: a clear error, and the user's object as it was


def spoilt(value: float) -> ad.AnnData:
    counts = simulated()
    counts[3, 4] = value
    return made(counts)


def log_normalised() -> ad.AnnData:
    adata = made(simulated())
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    return adata


def without_counts() -> ad.AnnData:
    counts = simulated()
    counts[[1, 7]] = 0
    return made(counts)


def twice_named(axis: str) -> ad.AnnData:
    adata = made(simulated())
    frame = getattr(adata, axis)
    frame.index = [frame.index[1], *frame.index[1:]]
    return adata


def already_binned() -> ad.AnnData:
    adata = made(simulated(60, 250))
    pp.bin_expression(adata)
    return adata


def tokens_in_x() -> ad.AnnData:
    adata = already_binned()
    adata.X = adata.layers["binned"].copy()
    return adata


BAD = [
    (
        lambda: spoilt(-1),
        {},
        ValueError,
        r"adata.X holds negative values, first -1 \(cell 'c3', gene 'g4'\)",
    ),
    (
        lambda: spoilt(np.nan),
        {},
        ValueError,
        r"NaN or infinite values, first nan \(cell 'c3', gene 'g4'\)",
    ),
    (
        lambda: spoilt(np.inf),
        {},
        ValueError,
        r"NaN or infinite values, first inf \(cell 'c3', gene 'g4'\)",
    ),
    (
        lambda: spoilt(1.5),
        {},
        ValueError,
        r"raw counts \(whole numbers\); first other value: 1.5 \(cell 'c3', gene 'g4'\)",
    ),
    (log_normalised, {}, ValueError, "looks log-transformed"),
    (
        without_counts,
        {},
        ValueError,
        "2 cells have no counts in adata.X \\('c1', 'c7'\\).*filter_cells",
    ),
    (
        lambda: twice_named("obs"),
        {},
        ValueError,
        "obs_names must be unique; found more than once: 'c1'",
    ),
    (
        lambda: twice_named("var"),
        {},
        ValueError,
        "var_names must be unique; found more than once: 'g1'",
    ),
    (already_binned, {"layer": "binned", "key_added": "again"}, ValueError, "looks binned already"),
    (
        tokens_in_x,
        {"key_added": "again"},
        ValueError,
        r"adata.X looks binned already \(its largest value is 5, n_bins=5\)",
    ),
    (lambda: made(simulated())[:10], {}, ValueError, "is a view"),
    (
        lambda: made(np.zeros((0, 3))),
        {},
        ValueError,
        "at least one cell and one gene, found 0 cells x 3 genes",
    ),
    (
        lambda: made(np.zeros((3, 0))),
        {},
        ValueError,
        "at least one cell and one gene, found 3 cells x 0 genes",
    ),
    (
        lambda: made(simulated()),
        {"layer": "counts"},
        KeyError,
        "'counts' is not in adata.layers; it has none",
    ),
    (already_binned, {"layer": "raw"}, KeyError, "'raw' is not in adata.layers; it has 'binned'"),
    (
        lambda: made(simulated()),
        {"method": "log"},
        ValueError,
        "method must be one of 'log2', .*; found 'log'",
    ),
    (
        lambda: made(simulated()),
        {"n_bins": 0},
        ValueError,
        "n_bins must be a whole number from 1 to 254; found 0",
    ),
    (lambda: made(simulated()), {"n_bins": 255}, ValueError, "n_bins must be .*; found 255"),
    (lambda: made(simulated()), {"n_bins": 5.0}, ValueError, "n_bins must be a whole number"),
    (lambda: made(simulated()), {"n_bins": True}, ValueError, "n_bins must be a whole number"),
    (lambda: made(simulated()), {"target_sum": 0}, ValueError, "target_sum must be a number"),
    (lambda: made(simulated()), {"target_sum": np.nan}, ValueError, "target_sum must be a number"),
    (lambda: np.ones((3, 3)), {}, TypeError, "Expected an AnnData, found ndarray"),
]


def state(adata: object) -> object:
    if not isinstance(adata, ad.AnnData):
        return None
    X = adata.X.toarray() if sparse.issparse(adata.X) else adata.X
    return (
        X.copy(),
        sorted(filter(None, adata.layers)),
        sorted(adata.uns),
        list(adata.obs),
        list(adata.var),
        adata.is_view,
    )


@pytest.mark.filterwarnings("ignore:.*names are not unique:UserWarning")
@pytest.mark.parametrize(("make", "kwargs", "error", "message"), BAD)
def test_bad_input(make: object, kwargs: dict, error: type[Exception], message: str) -> None:
    adata = make()
    before = state(adata)
    with pytest.raises(error, match=message):
        pp.bin_expression(adata, **kwargs)
    for one, two in zip(before or (), state(adata) or (), strict=True):
        np.testing.assert_equal(one, two)


def test_few_bins() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"adata.X looks binned already .*5, n_bins=5"):
        pp.bin_expression(made(rng.integers(0, 6, size=(60, 250))))
    pp.bin_expression(made(rng.integers(0, 7, size=(60, 250))))
    pp.bin_expression(made(rng.integers(0, 6, size=(40, 250))))  # too few cells to tell
    with pytest.raises(ValueError, match="60 cells have no counts"):
        pp.bin_expression(made(np.zeros((60, 250))))


def test_many_bins_are_told_from_shallow_counts() -> None:
    rng = np.random.default_rng(0)
    counts = np.minimum(rng.poisson(2, size=(60, 250)), 50)
    pp.bin_expression(made(counts), n_bins=50)
    tokens = counts.copy()
    tokens[np.arange(60), tokens.argmax(1)] = 50
    with pytest.raises(ValueError, match="largest value is 50, n_bins=50"):
        pp.bin_expression(made(tokens), n_bins=50)


def test_a_recorded_layer_is_binned_whatever_its_size() -> None:
    adata = made(simulated())
    adata.layers["tokens"] = adata.X.copy()
    pp.bin_expression(adata, layer="tokens")
    adata.uns["tokens"] = {"edges": np.ones(5)}
    with pytest.raises(ValueError, match=r"adata.layers\['tokens'\] looks binned already"):
        pp.bin_expression(adata, layer="tokens")


def test_result_does_not_replace_its_counts() -> None:
    adata = made(simulated())
    adata.layers["counts"] = adata.X.copy()
    with pytest.raises(ValueError, match="key_added='counts' is the layer with the counts"):
        pp.bin_expression(adata, layer="counts", key_added="counts")


def test_backed_is_refused(tmp_path: object) -> None:
    made(simulated()).write_h5ad(tmp_path / "a.h5ad")
    adata = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    with pytest.raises(ValueError, match=r"is backed by .*a\.h5ad.*to_memory"):
        pp.bin_expression(adata)
    adata.file.close()


def test_view_with_copy_is_fine() -> None:
    adata = made(simulated())
    np.testing.assert_array_equal(binned(adata[5:9]), binned(adata)[5:9])


# --- real data


@pytest.mark.realdata
def test_on_real_counts(shared_file: object) -> None:
    adata = ad.read_h5ad(shared_file("data/pbmc_5k.h5ad"))
    for method in METHODS:
        pp.bin_expression(adata, method=method, key_added=method)
        expressed = adata.layers[method].nnz / adata.X.nnz
        assert expressed == 1 or method == "log2"
        assert expressed > 0.9
    # ranks of the same counts: within a cell, more counts never give a smaller token
    row = adata.X[0].toarray().ravel()
    for method in ("log2", "uniform", "quantile"):
        tokens = adata.layers[method][0].toarray().ravel()
        assert (np.diff(tokens[np.argsort(row, kind="stable")].astype(int)) >= 0).all()
