"""Checks of an AnnData and its columns."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _keys
from scbert_cll._checks.matrix import can_be_copied
from scbert_cll._checks.people import categories_of, class_names, class_order, warn_of_missing_words
from scbert_cll._checks.words import key_in, listed, unique


def anndata(adata: Any, *, repeated_genes: bool = False) -> AnnData:
    """An AnnData in memory with cells, genes and unique names (genes may repeat where they are going to be summed)."""
    found = in_memory(adata)
    if adata.n_obs == 0 or adata.n_vars == 0:
        raise ValueError(
            f"Expected at least one cell and one gene, found {adata.n_obs} cells x "
            f"{adata.n_vars} genes."
        )
    unique(adata.obs_names, "obs_names", "adata.obs_names_make_unique()")
    if not repeated_genes:
        unique(
            adata.var_names,
            "var_names",
            "adata.var_names_make_unique(), or pp.align_genes to sum them",
        )
    return found


def in_memory(adata: Any) -> AnnData:
    """An AnnData, and not a file."""
    if not isinstance(adata, AnnData):
        hint = (
            ' Take one modality, e.g. mdata["rna"].'
            if isinstance(getattr(adata, "mod", None), Mapping)
            else ""
        )
        raise TypeError(f"Expected an AnnData, found {type(adata).__name__}.{hint}")
    if adata.isbacked:
        raise ValueError(
            f"adata is backed by {str(adata.filename)!r}; read it into memory first: adata = "
            f"adata.to_memory()"
        )
    if not isinstance(adata.obs, pd.DataFrame):  # ad.experimental.read_lazy
        raise ValueError(
            "adata is lazy: its tables are still on disk; read it into memory first: adata = "
            "adata.to_memory()"
        )
    found: AnnData = adata
    return found


def target(adata: AnnData, *, copy: bool) -> AnnData:
    """The object to write to: a copy, or the user's own, which then must not be a view."""
    if copy:
        for name, values in adata.layers.items():  # X under None
            can_be_copied(values, "adata.X" if name is None else f"adata.layers[{name!r}]")
        return adata.copy()
    if adata.is_view:
        raise ValueError(
            "adata is a view of another AnnData, so what is written to it would not reach the "
            "object you keep; "
            "make it its own object first: adata = adata.copy()."
        )
    return adata


def obs_column(adata: AnnData, key: str, *, allow_missing: bool = True) -> pd.Series:
    """A column of `obs`, without missing values where they cannot be allowed."""
    key_in(key, adata.obs, "adata.obs")
    column: pd.Series = cast("pd.DataFrame", adata.obs)[key]
    if not allow_missing and column.isna().any():
        bad = adata.obs_names[column.isna()]
        raise ValueError(
            f"adata.obs[{key!r}] is missing for {len(bad)} cells ({listed(bad)}); fill it or "
            f"drop these cells."
        )
    return column


def cells(adata: AnnData, which: Any, what: str) -> np.ndarray:
    """Chosen cells as a mask: all (None), a mask, a true/false column, or the training cells of a split column."""
    if which is None:
        return np.ones(adata.n_obs, dtype=bool)
    column = obs_column(adata, which, allow_missing=False) if isinstance(which, str) else which
    if isinstance(which, str) and not pd.api.types.is_bool_dtype(column):
        column = split(adata, which) == _keys.TRAIN
    mask = np.asarray(column)
    if mask.dtype != bool or mask.shape != (adata.n_obs,) or not mask.any():
        raise ValueError(
            f"{what} must choose at least one cell: a true/false value for each of the "
            f"{adata.n_obs} cells, or the name "
            f"of such a column (or of a split column) of adata.obs; found {mask.dtype} of "
            f"shape {mask.shape}, "
            f"{int(mask.sum()) if mask.dtype == bool else 0} true."
        )
    return mask


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
    key_in(
        key,
        adata.obs,
        "adata.obs",
        "Make one with pp.split_donors: donors, not cells, are held out.",
    )
    column = cast("pd.DataFrame", adata.obs)[key].astype(object)
    other = sorted({str(v) for v in column.dropna().unique()} - set(_keys.SPLIT_ORDER))
    if other:
        raise ValueError(
            f"adata.obs[{key!r}] may hold {listed(_keys.SPLIT_ORDER)}; found also {listed(other)}."
        )
    for part in need:
        if not (column == part).any():
            raise ValueError(
                f"adata.obs[{key!r}] has no cell in {part!r}; it holds "
                f"{listed(column.dropna().unique())}."
            )
    return column


def classes(labels: pd.Series, key: str, *, within: str = "") -> list[str]:
    """The classes that occur, as text, in the column's own order; at least two."""
    found = class_order(labels)
    warn_of_missing_words(found, key)
    if len(found) < 2:
        raise ValueError(
            f"adata.obs[{key!r}] needs at least two classes{within}; found {listed(found)}."
        )
    return found


def groups(adata: AnnData, key: str) -> pd.Series:
    """A column of groups as a categorical of text in which every category occurs."""
    column = categories_of(obs_column(adata, key))
    if not column.notna().any():
        raise ValueError(
            f"adata.obs[{key!r}] is missing for all {adata.n_obs} cells; there is no group to "
            f"summarise."
        )
    return column


def one_group_per_cell(groups: pd.Series, adata: AnnData) -> None:
    """As many groups as cells, and not all of them missing."""
    if len(groups) != adata.n_obs:
        raise ValueError(
            f"groups needs one value per cell, in the order of the cells: {adata.n_obs}, "
            f"found {len(groups)}."
        )
    if not groups.notna().any():
        raise ValueError(
            f"groups is missing for all {adata.n_obs} cells; there is no group to summarise."
        )


def labels(adata: AnnData, key: str, known: Sequence[str], rows: np.ndarray) -> np.ndarray:
    """Codes of a label column (-1 where missing), with no class that is unknown or has no cell among `rows`."""
    column = obs_column(adata, key)
    names = class_names(column)
    unseen = sorted(set(names.dropna()) - set(known))
    if unseen:
        raise ValueError(
            f"adata.obs[{key!r}] has classes the model does not know: {listed(unseen)}; it "
            f"knows {listed(known)}."
        )
    codes = pd.Categorical(names, categories=list(known)).codes
    every_class(codes[rows], known, f"adata.obs[{key!r}]")
    return codes.astype(np.int64)


def every_class(codes: np.ndarray, known: Sequence[str], where: str) -> None:
    """A labelled training cell of every class."""
    absent = [c for i, c in enumerate(known) if not (codes == i).any()]
    if absent:
        raise ValueError(
            f"No labelled training cell of class {listed(absent)} in {where}; "
            "split so that every class has training donors, or remove the class."
        )


def no_resampled_rows(adata: AnnData) -> None:
    """Every row is a cell that was measured."""
    if _keys.IS_SYNTHETIC not in adata.obs:
        return
    added = adata.obs_names[np.asarray(adata.obs[_keys.IS_SYNTHETIC], dtype=bool)]
    if len(added):
        raise ValueError(
            f"{len(added)} cells were added by resampling ({listed(added)}); copies of a cell "
            f"would be on both sides of a fold. "
            "Start from the cells as measured; each model balances its own training cells."
        )


def protein_counts(adata: AnnData, key: str) -> np.ndarray:
    """Counts of the proteins in `obsm`: (cells, proteins), finite and not negative.

    Some others are left out and told.
    """
    key_in(
        key,
        adata.obsm,
        "adata.obsm",
        'Put them there, e.g. adata.obsm["protein"] = mdata["prot"].to_df().',
    )
    found: Any = adata.obsm[key]
    names = [str(name) for name in found] if isinstance(found, pd.DataFrame) else None
    values = (
        table_numbers(found)
        if names
        else np.asarray(found.toarray() if hasattr(found, "toarray") else found)
    )
    if values.ndim != 2 or not np.issubdtype(values.dtype, np.number):
        raise ValueError(
            f"adata.obsm[{key!r}] must hold numbers, cells × proteins; found {values.dtype}."
        )
    bad = ~(np.isfinite(values) & (values >= 0)).all(0)
    told = listed(np.asarray(names or [f"column {j}" for j in range(bad.size)])[bad])
    if bad.sum() >= 0.5 * bad.size:
        raise ValueError(
            f"adata.obsm[{key!r}] must hold raw protein counts: finite, none negative; found "
            f"values from {values.min():g} to "
            f"{values.max():g}, and {bad.sum()} of {bad.size} proteins that hold others: {told}."
        )
    if bad.any():
        warnings.warn(
            f"{bad.sum()} of {bad.size} proteins in adata.obsm[{key!r}] hold missing or "
            f"negative values and are left out: {told}.",
            stacklevel=2,
        )
    return values[:, ~bad].astype(np.float64)


def table_numbers(table: pd.DataFrame) -> np.ndarray:
    """Values of a table as float64.

    What is no number is missing, which concerns its column alone.
    """
    try:
        return table.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError):
        columns = [pd.to_numeric(table.iloc[:, j], errors="coerce") for j in range(table.shape[1])]
        return np.column_stack(
            [column.to_numpy(dtype=np.float64, na_value=np.nan) for column in columns]
        )


def weights(values: np.ndarray, key: str) -> None:
    """Weights that training can use."""
    if not np.isfinite(values).all() or (values < 0).any() or values.sum() <= 0:
        raise ValueError(
            f"adata.obs[{key!r}] must hold finite weights of zero or more for all training "
            f"cells; make it with pp.balance."
        )
