"""Every check of a user's input, and the sentence that goes with it.

A check never changes what it looks at. It returns what the caller needs next (a column, a matrix), or raises with what
was expected, what was found, the offenders by name and the remedy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scbert_cll import _keys

# A matrix at least this large whose largest value is no more than the number of bins is taken for binned data.
_LOOKS_BINNED_CELLS, _LOOKS_BINNED_GENES = 50, 200


def listed(items: Iterable[Any], n: int = 5) -> str:
    """Say the first `n` items by name and how many more there are."""
    items = [str(i) for i in items]
    shown = ", ".join(repr(i) for i in items[:n]) or "none"
    return shown + (f" and {len(items) - n} more" if len(items) > n else "")


def anndata(adata: Any) -> AnnData:
    """An AnnData in memory with cells, genes and unique names."""
    if not isinstance(adata, AnnData):
        hint = ' Take one modality, e.g. mdata["rna"].' if hasattr(adata, "mod") else ""
        raise TypeError(f"Expected an AnnData, found {type(adata).__name__}.{hint}")
    if adata.isbacked:
        raise ValueError(f"adata is backed by {str(adata.filename)!r}; read it into memory first: adata = adata.to_memory()")
    if adata.n_obs == 0 or adata.n_vars == 0:
        raise ValueError(f"Expected at least one cell and one gene, found {adata.n_obs} cells x {adata.n_vars} genes.")
    unique(adata.obs_names, "obs_names", "adata.obs_names_make_unique()")
    unique(adata.var_names, "var_names", "adata.var_names_make_unique(), or pp.align_genes to sum them")
    return adata


def target(adata: AnnData, *, copy: bool) -> AnnData:
    """The object to write to: a copy, or the user's own, which then must not be a view."""
    if copy:
        return adata.copy()
    if adata.is_view:
        raise ValueError(
            "adata is a view of another AnnData, so what is written to it would not reach the object you keep; "
            "make it its own object first (adata = adata.copy()) or pass copy=True."
        )
    return adata


def unique(names: pd.Index, what: str, remedy: str) -> None:
    """No name twice."""
    twice = names[names.duplicated()].unique()
    if len(twice):
        raise ValueError(f"{what} must be unique; found more than once: {listed(twice)}. Remedy: {remedy}.")


def choice(value: str, allowed: Sequence[str], what: str) -> str:
    """One of the allowed words."""
    if value not in allowed:
        raise ValueError(f"{what} must be one of {listed(allowed, 20)}; found {value!r}.")
    return value


def key_in(key: str, store: Mapping[str, Any] | pd.DataFrame, where: str, remedy: str = "") -> None:
    """A key that exists; the ones that do are listed."""
    if key not in store:
        there = listed(list(store.keys()), 12)
        raise KeyError(f"{key!r} is not in {where}; it has {there}." + (f" {remedy}" if remedy else ""))


def obs_column(adata: AnnData, key: str, *, allow_missing: bool = True) -> pd.Series:
    """A column of `obs`, without missing values where they cannot be allowed."""
    key_in(key, adata.obs, "adata.obs")
    column = adata.obs[key]
    if not allow_missing and column.isna().any():
        bad = adata.obs_names[column.isna()]
        raise ValueError(f"adata.obs[{key!r}] is missing for {len(bad)} cells ({listed(bad)}); fill it or drop these cells.")
    return column


def matrix(adata: AnnData, layer: str | None) -> sparse.csr_matrix:
    """`X` or a layer as canonical CSR, whatever it was (csr, csc, csr_array, dense); finite and not negative."""
    if layer is not None:
        key_in(layer, adata.layers, "adata.layers")
    found = adata.X if layer is None else adata.layers[layer]
    where = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
    if found is None:
        raise ValueError(f"{where} is empty (None); put the counts there or name the layer that holds them.")
    csr = sparse.csr_matrix(found)
    if not csr.has_canonical_format:
        csr = csr.copy() if csr is found else csr
        csr.sum_duplicates()
    for bad, what in ((~np.isfinite(csr.data), "NaN or infinite"), (csr.data < 0, "negative")):
        if bad.any():
            raise ValueError(f"{where} holds {what} values, first {_first(csr, bad, adata)}; expected raw counts, zero or more.")
    return csr


def counts(adata: AnnData, layer: str | None) -> sparse.csr_matrix:
    """`matrix`, and all values whole numbers: raw counts."""
    csr = matrix(adata, layer)
    where = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
    bad = csr.data != np.trunc(csr.data) if csr.dtype.kind == "f" else np.zeros(0, dtype=bool)
    if bad.any():
        log = "log1p" in adata.uns or csr.data.max() < 20
        hint = " It looks log-transformed." if log else ""
        raise ValueError(
            f"{where} must hold raw counts (whole numbers); first other value: {_first(csr, bad, adata)}.{hint} "
            f"Name the layer with the raw counts; this object has layers {listed(adata.layers.keys())}."
        )
    return csr


def not_binned(csr: sparse.csr_matrix, adata: AnnData, layer: str | None, n_bins: int) -> None:
    """Counts, not tokens: binning twice is a silent disaster."""
    where = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
    known = layer is not None and isinstance(adata.uns.get(layer), Mapping) and "edges" in adata.uns[layer]
    large = adata.n_obs >= _LOOKS_BINNED_CELLS and adata.n_vars >= _LOOKS_BINNED_GENES
    if known or (large and csr.nnz and csr.data.max() <= n_bins):
        raise ValueError(
            f"{where} looks binned already (its largest value is {csr.data.max():g}, n_bins={n_bins}); "
            "bin raw counts, once."
        )


def no_empty_cells(totals: np.ndarray, adata: AnnData, where: str) -> None:
    """Every cell has at least one count."""
    empty = adata.obs_names[np.asarray(totals) == 0]
    if len(empty):
        raise ValueError(
            f"{len(empty)} cells have no counts in {where} ({listed(empty)}); "
            "remove them first: sc.pp.filter_cells(adata, min_counts=1)."
        )


def split(adata: AnnData, key: str, *, need: Sequence[str] = (_keys.TRAIN,)) -> pd.Series:
    """A split column: train / val / test only, with cells in every part that is needed."""
    key_in(key, adata.obs, "adata.obs", "Make one with pp.split_donors: donors, not cells, are held out.")
    column = adata.obs[key].astype(object)
    other = sorted({str(v) for v in column.dropna().unique()} - set(_keys.SPLIT_ORDER))
    if other:
        raise ValueError(f"adata.obs[{key!r}] may hold {listed(_keys.SPLIT_ORDER)}; found also {listed(other)}.")
    for part in need:
        if not (column == part).any():
            raise ValueError(f"adata.obs[{key!r}] has no cell in {part!r}; it holds {listed(column.dropna().unique())}.")
    return column


def classes(labels: pd.Series, key: str, *, within: str = "") -> list[str]:
    """The classes that occur, in the column's own order; at least two."""
    categorical = labels.astype("category")
    found = [str(c) for c in categorical.cat.categories if (categorical == c).any()]
    if len(found) < 2:
        raise ValueError(f"adata.obs[{key!r}] needs at least two classes{within}; found {listed(found)}.")
    return found


def _first(csr: sparse.csr_matrix, bad: np.ndarray, adata: AnnData) -> str:
    """Name the first stored value that is bad: its value, cell and gene."""
    i = int(np.flatnonzero(bad)[0])
    row = int(np.searchsorted(csr.indptr, i, side="right") - 1)
    return f"{csr.data[i]:g} (cell {adata.obs_names[row]!r}, gene {adata.var_names[csr.indices[i]]!r})"
