"""What SMOTE needs to know about an AnnData: where cells are near, and what lies between two of them."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from scipy import sparse

from scbert_cll import _checks
from scbert_cll._checks.words import key_in, listed


def refuse_derived(adata: AnnData) -> None:
    """Tokens have no middle, and `raw` would keep the old number of cells."""
    binned = [k for k, _ in adata.layers.items() if _checks.counts.is_binned(adata, k)]
    if binned:
        raise ValueError(
            f"adata.layers[{listed(binned)}] holds bins, and there is nothing between "
            f"two of them: delete it, balance, then pp.bin_expression."
        )
    if adata.raw is not None:
        raise ValueError(
            "adata.raw is set, and SMOTE makes no raw values; keep the counts in a layer and "
            "del adata.raw first."
        )


def neighbour_space(
    adata: AnnData, rows: np.ndarray, use_rep: str | None, seed: int
) -> sparse.csr_matrix:
    """Coordinates of the training cells, and beside them the identity.

    Any two rows of the identity are equally far apart, so it changes no neighbour; but after
    interpolation it holds each new cell's parents and their shares, which imbalanced-learn does not
    tell.
    """
    if use_rep is None:
        coordinates = _components(adata, rows, seed)
    else:
        key_in(use_rep, adata.obsm, "adata.obsm")
        found = adata.obsm[use_rep]
        if isinstance(found, pd.DataFrame):
            _checks.tables.only_numbers(found, f"adata.obsm[{use_rep!r}]")
        coordinates = (
            found.iloc[rows].to_numpy(np.float64)
            if isinstance(found, pd.DataFrame)
            else found[rows]
        )
    # float64: an integer matrix would have its interpolated values cut off
    identity = sparse.eye_array(rows.size, format="csr")
    return sparse.hstack([sparse.csr_array(coordinates).astype(np.float64), identity], format="csr")


def interpolate(
    new: AnnData,
    old: AnnData,
    rows: np.ndarray,
    parents: sparse.csr_matrix,
    rng: np.random.Generator,
) -> None:
    """Replace the added rows of `new` by what lies between their parents among `rows` of `old`."""
    new.X = _between(old.X, rows, parents, rng)
    for key, found in old.layers.items():
        if key is not None:  # that is X
            new.layers[key] = _between(found, rows, parents, rng)
    for key, found in old.obsm.items():
        if isinstance(found, pd.DataFrame):
            new.obsm[key] = _between_tables(
                found, cast("pd.DataFrame", new.obsm[key]), rows, parents, rng
            )
        elif np.asarray(found[:0]).dtype.kind in "biufc" or sparse.issparse(found):
            new.obsm[key] = _between(found, rows, parents, rng)
        else:
            new.obsm[key] = _between_words(
                np.asarray(found), np.asarray(new.obsm[key]), rows, parents, rng
            )
    for key in old.obs.columns:
        new.obs[key] = _shared(
            _checks.adata.obs_column(old, key),
            _checks.adata.obs_column(new, key),
            rows,
            parents,
            old.n_obs,
        )


def _components(adata: AnnData, rows: np.ndarray, seed: int) -> np.ndarray:
    """Principal components of the training cells' X, log-normalised first if it holds counts."""
    matrix = _checks.counts.matrix(adata, None)[rows].astype(np.float64)
    train = AnnData(matrix)
    if _whole(matrix):
        sc.pp.normalize_total(train, target_sum=1e4)
        sc.pp.log1p(train)
    n = min(50, *(s - 1 for s in train.shape))
    if n < 1:
        return np.asarray(matrix.toarray())
    sc.pp.pca(train, n_comps=n, random_state=seed, svd_solver="arpack")
    return np.asarray(train.obsm["X_pca"])


def _between_tables(
    old: pd.DataFrame,
    new: pd.DataFrame,
    rows: np.ndarray,
    parents: sparse.csr_matrix,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Columns of numbers between the parents.

    Of words, categories, dates and truth values what both parents have.
    """
    is_number = [_is_number(old.iloc[:, i]) for i in range(old.shape[1])]
    columns = {i: new.iloc[:, i] for i in range(old.shape[1])}
    if any(is_number):
        values = _between(
            old.loc[:, is_number].to_numpy(dtype=np.float64, na_value=np.nan), rows, parents, rng
        )
        columns |= {
            i: pd.Series(values[:, j], new.index)
            for j, i in enumerate(np.flatnonzero(is_number).tolist())
        }
    for i in np.flatnonzero(~np.array(is_number, dtype=bool)).tolist():
        shared = _shared(old.iloc[:, i], new.iloc[:, i], rows, parents, len(old))
        is_text = pd.api.types.is_object_dtype(shared) and shared.isna().any()
        columns[i] = (
            shared.astype("category") if is_text else shared
        )  # no file holds a gap in plain text
    return pd.DataFrame(columns, index=new.index).set_axis(old.columns, axis=1)


def _between_words(
    old: np.ndarray,
    new: np.ndarray,
    rows: np.ndarray,
    parents: sparse.csr_matrix,
    rng: np.random.Generator,
) -> np.ndarray:
    """Words in an array: those that both parents have, else none ("")."""
    first, second = (pd.DataFrame(values.reshape(len(values), -1)) for values in (old, new))
    found = _between_tables(first, second, rows, parents, rng).astype(object).fillna("")
    return found.to_numpy(dtype=object).reshape(new.shape)


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _whole(values: Any) -> bool:
    data = values.data if sparse.issparse(values) else np.asarray(values)
    return bool((data == np.trunc(data)).all() and (data >= 0).all())


def _between(
    values: Any, rows: np.ndarray, parents: sparse.csr_matrix, rng: np.random.Generator
) -> Any:
    """`values` with the new rows below: thinned where they are counts, interpolated where not.

    Same type and dtype.
    """
    if values is None:
        return None
    held = values[rows]
    source = sparse.csr_array(
        held if sparse.issparse(held) else np.asarray(held).reshape(len(held), -1)
    )
    made = _thinned(source, parents, rng) if _whole(values) else sparse.csr_array(parents @ source)
    if sparse.issparse(values):
        stacked = sparse.vstack(
            [sparse.csr_array(values), made.astype(values.dtype)], format=values.format
        )
        return type(values)(stacked)
    added = made.toarray().astype(values.dtype).reshape(-1, *values.shape[1:])
    return np.concatenate([np.asarray(values), added])


def _thinned(
    source: sparse.csr_array, parents: sparse.csr_matrix, rng: np.random.Generator
) -> sparse.csr_array:
    """Each count of a parent kept with the probability of its share: whole numbers, with the point between as the mean."""
    shares = sparse.coo_array(parents)
    drawn = source[shares.col]
    p = np.repeat(np.clip(shares.data, 0, 1), np.diff(drawn.indptr))
    drawn.data = rng.binomial(drawn.data.astype(np.int64), p).astype(np.float64)
    to_child = sparse.csr_array(
        (np.ones(shares.row.size), (shares.row, np.arange(shares.row.size))),
        shape=(parents.shape[0], shares.row.size),
    )
    made = sparse.csr_array(to_child @ drawn)
    made.eliminate_zeros()
    return made


def _shared(
    old: pd.Series, column: pd.Series, rows: np.ndarray, parents: sparse.csr_matrix, n: int
) -> pd.Series:
    """A value that both parents have, or nothing."""
    codes = pd.factorize(old)[0][rows]
    child, parent = sparse.coo_array(parents).coords
    spread = pd.Series(codes[parent]).groupby(child).agg(["min", "max"])
    differ = np.concatenate([np.zeros(n, dtype=bool), (spread["min"] != spread["max"]).to_numpy()])
    if not differ.any():
        return column
    if column.dtype.kind == "b":
        column = column.astype("boolean")
    elif column.dtype.kind in "iu":
        column = column.astype(np.float64)
    return column.mask(differ)
