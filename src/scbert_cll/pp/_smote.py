"""SMOTE of an AnnData: where cells are near, and what lies between two of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from scipy import sparse

from scbert_cll import _checks
from scbert_cll._checks.words import key_in, listed


def refuse_derived(adata: AnnData) -> None:
    """Tokens have no middle, and `raw` would keep the old number of cells."""
    layers = [name for name, _ in adata.layers.items()]
    if binned := [name for name in layers if _checks.counts.is_binned(adata, name)]:
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
) -> sparse.csr_array:
    """Coordinates of the training cells, and next to them the identity.

    Any two rows of the identity are equally far apart, so it changes no neighbour; but after
    interpolation it holds each new cell's parents and their shares, which imbalanced-learn does not
    tell.
    """
    if use_rep is None:
        coordinates = _components(adata, rows, seed)
    else:
        key_in(use_rep, adata.obsm, "adata.obsm")
        values = adata.obsm[use_rep]
        if isinstance(values, pd.DataFrame):
            _only_numbers(values, f"adata.obsm[{use_rep!r}]")
            values = values.to_numpy(np.float64)
        coordinates = values[rows]
    # float64: an integer matrix would have its interpolated values cut off
    identity = sparse.eye_array(rows.size, format="csr")
    numbers = sparse.csr_array(coordinates).astype(np.float64)
    return sparse.hstack([numbers, identity], format="csr")


def _only_numbers(table: pd.DataFrame, where: str) -> None:
    """Refuse a table in which cells are neither near nor far."""
    is_number = [pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes]
    numbers = table.columns[is_number]
    text = [str(name) for name in table.columns.difference(numbers, sort=False)]
    if text and not len(numbers):
        raise ValueError(
            f"{where} must hold numbers; it has none. Leave use_rep out, or name another obsm."
        )
    if text:
        raise ValueError(
            f"{where} must hold numbers only; {listed(text)} holds something else. Take the "
            f"others: adata.obsm['numbers'] = {where}.drop(columns={text!r}), then "
            "use_rep='numbers'."
        )


def _components(adata: AnnData, rows: np.ndarray, seed: int) -> np.ndarray:
    """Principal components of the training cells' X, log-normalised first if it holds counts."""
    matrix = _checks.counts.matrix(adata, None)[rows].astype(np.float64)
    train = AnnData(matrix)
    if _are_counts(matrix):
        sc.pp.normalize_total(train, target_sum=1e4)
        sc.pp.log1p(train)
    n = min(50, *(s - 1 for s in train.shape))
    if n < 1:
        return np.asarray(matrix.toarray())
    sc.pp.pca(train, n_comps=n, random_state=seed, svd_solver="arpack")
    return np.asarray(train.obsm["X_pca"])


@dataclass(frozen=True)
class Interpolation:
    """New cells between training cells, added below the cells of an object.

    Parameters
    ----------
    rows
        Positions of the training cells.
    parents
        Shares of the training cells in each new cell (new cells × training cells).
    rng
        Of the counts that are drawn.
    """

    rows: np.ndarray
    parents: sparse.csr_array
    rng: np.random.Generator

    def fill(self, new: AnnData, old: AnnData) -> None:
        """Replace the added rows of `new` by what lies between their parents in `old`."""
        new.X = self._between(old.X)
        for key, values in old.layers.items():
            if key is not None:  # that is X
                new.layers[key] = self._between(values)
        for key, values in old.obsm.items():
            new.obsm[key] = self._of_obsm(values, new.obsm[key])
        for key in old.obs.columns:
            old_column = _checks.adata.obs_column(old, key)
            new.obs[key] = self._shared(old_column, _checks.adata.obs_column(new, key))

    def _of_obsm(self, old: Any, new: Any) -> Any:
        if isinstance(old, pd.DataFrame):
            return self._between_tables(old, new)
        if sparse.issparse(old) or np.asarray(old[:0]).dtype.kind in "biufc":
            return self._between(old)
        # words: those that both parents have, else none ("")
        arrays = (np.asarray(part).reshape(len(part), -1) for part in (old, new))
        words = self._between_tables(*map(pd.DataFrame, arrays))
        words = words.astype(object).fillna("")
        return words.to_numpy(dtype=object).reshape(new.shape)

    def _between_tables(self, old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
        """Columns of numbers between the parents; of others what both parents have."""
        numbers = [i for i in range(old.shape[1]) if _is_number(old.iloc[:, i])]
        columns: dict[int, pd.Series] = {}
        if numbers:
            values = old.iloc[:, numbers].to_numpy(dtype=np.float64, na_value=np.nan)
            between = self._between(values)
            for i, column in zip(numbers, between.T, strict=True):
                columns[i] = pd.Series(column, new.index)
        for i in set(range(old.shape[1])) - set(numbers):
            shared = self._shared(old.iloc[:, i], new.iloc[:, i])
            has_gaps = pd.api.types.is_object_dtype(shared) and shared.isna().any()
            columns[i] = shared.astype("category") if has_gaps else shared
        table = pd.DataFrame(dict(sorted(columns.items())), index=new.index)
        return table.set_axis(old.columns, axis=1)

    def _between(self, values: Any) -> Any:
        """`values` with the new rows below: thinned where they are counts, else interpolated.

        Same type and dtype.
        """
        if values is None:
            return None
        of_parents = values[self.rows]
        if not sparse.issparse(of_parents):
            of_parents = np.asarray(of_parents).reshape(len(self.rows), -1)
        source = sparse.csr_array(of_parents)
        made = self._thinned(source) if _are_counts(values) else self.parents @ source
        if sparse.issparse(values):
            parts = [sparse.csr_array(values), made.astype(values.dtype)]
            return type(values)(sparse.vstack(parts, format=values.format))
        added = made.toarray().astype(values.dtype).reshape(-1, *values.shape[1:])
        return np.concatenate([np.asarray(values), added])

    def _thinned(self, source: sparse.csr_array) -> sparse.csr_array:
        """Each count of a parent kept with the probability of its share.

        So counts stay whole, with the point between the parents as their mean.
        """
        shares = sparse.coo_array(self.parents)
        drawn = source[shares.col]
        p = np.repeat(np.clip(shares.data, 0, 1), np.diff(drawn.indptr))
        counts = self.rng.binomial(drawn.data.astype(np.int64), p)
        drawn.data = counts.astype(np.float64)
        n = shares.row.size
        to_child = sparse.csr_array(
            (np.ones(n), (shares.row, np.arange(n))), shape=(self.parents.shape[0], n)
        )
        made = sparse.csr_array(to_child @ drawn)
        made.eliminate_zeros()
        return made

    def _shared(self, old: pd.Series, new: pd.Series) -> pd.Series:
        """A column with values that both parents have, or nothing."""
        codes = pd.factorize(old)[0][self.rows]
        child, parent = sparse.coo_array(self.parents).coords
        spread = pd.Series(codes[parent]).groupby(child).agg(["min", "max"])
        differ = np.zeros(len(new), dtype=bool)
        differ[len(old) :] = spread["min"] != spread["max"]
        if not differ.any():
            return new
        if new.dtype.kind == "b":
            new = new.astype("boolean")
        elif new.dtype.kind in "iu":
            new = new.astype(np.float64)
        return new.mask(differ)


def _is_number(column: pd.Series) -> bool:
    types = pd.api.types
    return types.is_numeric_dtype(column) and not types.is_bool_dtype(column)


def _are_counts(values: Any) -> bool:
    data = values.data if sparse.issparse(values) else np.asarray(values)
    return bool((data == np.trunc(data)).all() and (data >= 0).all())
