"""Checks of an AnnData and its columns."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, cast

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _keys, _names
from scbert_cll._checks import people
from scbert_cll._checks.counts import can_be_copied, slot_name
from scbert_cll._checks.words import key_in, listed, unique

_UNSAFE: Final = re.compile(r"[^\w.+-]+")
_LONGEST: Final = 60  # characters of a proposal


def anndata(adata: object, *, repeated_genes: bool = False) -> AnnData:
    """An AnnData in memory with cells, genes and unique names.

    Genes may repeat where they are going to be summed.
    """
    checked = in_memory(adata)
    if checked.n_obs == 0 or checked.n_vars == 0:
        raise ValueError(
            f"Expected at least one cell and one gene, found {checked.n_obs} cells x "
            f"{checked.n_vars} genes."
        )
    unique(checked.obs_names, "obs_names", "adata.obs_names_make_unique()")
    if not repeated_genes:
        remedy = "adata.var_names_make_unique(), or pp.align_genes to sum them"
        unique(checked.var_names, "var_names", remedy)
    return checked


def in_memory(adata: object) -> AnnData:
    """An AnnData that is not backed by a file."""
    if not isinstance(adata, AnnData):
        is_mudata = isinstance(getattr(adata, "mod", None), Mapping)
        hint = ' Take one modality, e.g. mdata["rna"].' if is_mudata else ""
        raise TypeError(f"Expected an AnnData, found {type(adata).__name__}.{hint}")
    if adata.isbacked:
        what = f"backed by {str(adata.filename)!r}"
    elif not isinstance(adata.obs, pd.DataFrame):  # ad.experimental.read_lazy
        what = "lazy: its tables are still on disk"
    else:
        return adata
    remedy = "read it into memory first: adata = adata.to_memory()"
    raise ValueError(f"adata is {what}; {remedy}")


def target(adata: AnnData, *, copy: bool) -> AnnData:
    """The object to write to: a copy, or the user's own, which then must not be a view."""
    if copy:
        for name, values in adata.layers.items():  # X under None
            can_be_copied(values, slot_name(name))
        return adata.copy()
    if adata.is_view:
        raise ValueError(
            "adata is a view of another AnnData, so what is written to it would not reach the "
            "object you keep; make it its own object first: adata = adata.copy()."
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
    """Chosen cells as a mask.

    All (None), a mask, a true/false column, or the training cells of a split column.
    """
    if which is None:
        return np.ones(adata.n_obs, dtype=bool)
    if isinstance(which, str):
        column = obs_column(adata, which, allow_missing=False)
        is_mask = pd.api.types.is_bool_dtype(column)
        which = column if is_mask else split(adata, which) == _keys.TRAIN
    mask = np.asarray(which)
    if mask.dtype != bool or mask.shape != (adata.n_obs,) or not mask.any():
        raise ValueError(
            f"{what} must choose at least one cell: a true/false value for each of the "
            f"{adata.n_obs} cells, or the name of such a column (or of a split column) of "
            f"adata.obs; found {mask.dtype} of shape {mask.shape}, "
            f"{int(mask.sum()) if mask.dtype == bool else 0} true."
        )
    return mask


def no_empty_cells(totals: np.ndarray, adata: AnnData, where: str) -> None:
    """Refuse cells without counts."""
    if len(empty := adata.obs_names[np.asarray(totals) == 0]):
        raise ValueError(
            f"{len(empty)} cells have no counts in {where} ({listed(empty)}); "
            "remove them first: sc.pp.filter_cells(adata, min_counts=1)."
        )


def split(adata: AnnData, key: str, *, need: Sequence[str] = (_keys.TRAIN,)) -> pd.Series:
    """A split column: train, val and test only, with cells in every part that is needed."""
    remedy = "Make one with pp.split_donors: donors, not cells, are held out."
    key_in(key, adata.obs, "adata.obs", remedy)
    column = cast("pd.DataFrame", adata.obs)[key].astype(object)
    parts = column.dropna().unique()
    if other := sorted({str(part) for part in parts} - set(_keys.SPLIT_ORDER)):
        raise ValueError(
            f"adata.obs[{key!r}] may hold {listed(_keys.SPLIT_ORDER)}; found also {listed(other)}."
        )
    for part in need:
        if part not in parts:
            raise ValueError(
                f"adata.obs[{key!r}] has no cell in {part!r}; it holds {listed(parts)}."
            )
    return column


def classes(labels: pd.Series, key: str, *, within: str = "") -> list[str]:
    """The classes that occur, as text, in the column's own order; at least two."""
    names = people.class_order(labels)
    people.warn_of_missing_words(names, key)
    if len(names) < 2:
        raise ValueError(
            f"adata.obs[{key!r}] needs at least two classes{within}; found {listed(names)}."
        )
    return names


def groups(adata: AnnData, key: str | None) -> pd.Series:
    """Groups as a categorical of text in which every category occurs; without a key, one group."""
    if key is None:
        return pd.Series("all", adata.obs_names, dtype="category")
    column = people.categories_of(obs_column(adata, key))
    _some_group(column, f"adata.obs[{key!r}]")
    return column


def one_group_per_cell(groups: pd.Series, adata: AnnData) -> None:
    """Refuse groups of other cells, or that are all missing."""
    if len(groups) != adata.n_obs:
        raise ValueError(
            f"groups needs one value per cell, in the order of the cells: {adata.n_obs}, "
            f"found {len(groups)}."
        )
    _some_group(groups, "groups")


def _some_group(groups: pd.Series, where: str) -> None:
    if not groups.notna().any():
        raise ValueError(
            f"{where} is missing for all {len(groups)} cells; there is no group to summarise."
        )


def labels(adata: AnnData, key: str, names: list[str], rows: np.ndarray) -> np.ndarray:
    """Codes of a label column, -1 where missing; each class is known and has a cell in `rows`."""
    column = people.class_names(obs_column(adata, key))
    if unseen := sorted(set(column.dropna()) - set(names)):
        raise ValueError(
            f"adata.obs[{key!r}] has classes the model does not know: {listed(unseen)}; it "
            f"knows {listed(names)}."
        )
    codes = pd.Categorical(column, categories=names).codes
    every_class(codes[rows], names, f"adata.obs[{key!r}]")
    return codes.astype(np.int64)


def every_class(codes: np.ndarray, names: Sequence[str], where: str) -> None:
    """Refuse a class without a labelled training cell."""
    if absent := [name for i, name in enumerate(names) if not (codes == i).any()]:
        raise ValueError(
            f"No labelled training cell of class {listed(absent)} in {where}; "
            "split so that every class has training donors, or remove the class."
        )


def protein_counts(adata: AnnData, key: str) -> np.ndarray:
    """Counts of the proteins in `obsm`: (cells, proteins) float64, finite and not negative.

    Proteins with other values are left out with a warning, if they are fewer than half.
    """
    remedy = 'Put them there, e.g. adata.obsm["protein"] = mdata["prot"].to_df().'
    key_in(key, adata.obsm, "adata.obsm", remedy)
    where, table = f"adata.obsm[{key!r}]", cast("Any", adata.obsm[key])
    if is_table := isinstance(table, pd.DataFrame):
        values = table_numbers(table)
    else:
        values = np.asarray(table.toarray() if hasattr(table, "toarray") else table)
    if values.ndim != 2 or not np.issubdtype(values.dtype, np.number):
        kind = values.dtype
        raise ValueError(f"{where} must hold numbers, cells × proteins; found {kind}.")
    n = values.shape[1]
    columns = list(table) if is_table else [f"column {j}" for j in range(n)]
    names = np.asarray(columns, dtype=str)
    bad = ~(np.isfinite(values) & (values >= 0)).all(0)
    if bad.sum() >= 0.5 * n:
        raise ValueError(
            f"{where} must hold raw protein counts: finite, none negative; found values from "
            f"{values.min():g} to {values.max():g}, and {bad.sum()} of {n} proteins that hold "
            f"others: {listed(names[bad])}."
        )
    if bad.any():
        warnings.warn(
            f"{bad.sum()} of {n} proteins in {where} hold missing or negative values and are "
            f"left out: {listed(names[bad])}.",
            stacklevel=2,
        )
    return values[:, ~bad].astype(np.float64)


def table_numbers(table: pd.DataFrame) -> np.ndarray:
    """Values of a table as float64; what is not a number is missing, in its column alone."""
    try:
        return table.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError):
        numbers: pd.DataFrame = table.apply(pd.to_numeric, errors="coerce")
        return numbers.to_numpy(np.float64, na_value=np.nan)


def new_key(
    key: Any,
    inputs: Iterable[str | None] = (),
    *,
    what: str = "key_added",
    stems: Iterable[str] = ("",),
) -> None:
    """Refuse a name for results that no file holds, or that with one of `stems` is read here."""
    if not isinstance(key, str) or not _names.is_key(key):
        proposal = _UNSAFE.sub("_", str(key))[:_LONGEST].strip("_.") or "result"
        raise ValueError(
            f"{what}={key!r} cannot be a name in a file: expected a text of 1 to 200 "
            f"characters without / and \\. Choose another, e.g. {what}={proposal!r}."
        )
    names_read = set(inputs)
    if taken := [f"{key}{stem}" for stem in stems if f"{key}{stem}" in names_read]:
        raise ValueError(
            f"{what}={key!r} would replace {listed(taken)}, which is read here. Choose "
            f"another, e.g. {what}={f'{key}_result'!r}."
        )
