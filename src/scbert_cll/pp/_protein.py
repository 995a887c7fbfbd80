"""Find the protein matrix of a CITE-seq object, look a marker up and bring it to a comparable scale."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from scbert_cll import _checks, _keys
from scbert_cll._checks.words import choice, key_in, listed, unique
from scbert_cll._names import own_index
from scbert_cll.pp import _protein_names

Normalize = Literal["clr_cell", "clr_protein", "none"]
NORMALIZE: tuple[str, ...] = ("clr_cell", "clr_protein", "none")


@dataclass(frozen=True)
class Protein:
    """Protein counts in the order of the cells of `rna`, and where they came from."""

    rna: AnnData
    values: sparse.csr_matrix
    names: pd.Index
    where: str


def find(data: AnnData | MuData, protein_key: str | None, rna_key: str | None = None) -> Protein:
    """Protein matrix of an AnnData (`obsm`) or MuData (a modality), with the cells of the RNA."""
    if isinstance(data, MuData):
        return _from_mudata(data, protein_key, rna_key)
    return _from_anndata(_checks.adata.anndata(data), protein_key)


def column(data: AnnData | MuData, rna: AnnData, key: str) -> pd.Series:
    """A column of the RNA's `obs`, or else of the MuData's own, aligned to the RNA's cells."""
    return (
        _checks.people.mudata_column(data, rna, key)
        if isinstance(data, MuData)
        else _checks.adata.obs_column(rna, key)
    )


def donors(data: AnnData | MuData, rna: AnnData, key: str, cells: np.ndarray) -> pd.Series:
    """Donor of each of the RNA's cells, wherever the column is; None for cells of no donor."""
    if isinstance(data, MuData):
        return _checks.people.donors_of(column(data, rna, key), f"obs[{key!r}]", cells=cells)
    return _checks.people.donors(rna, key, cells=cells)


def mask(data: AnnData | MuData, rna: AnnData, cells: Any, what: str = "cells") -> np.ndarray:
    """A boolean per cell from a mask, a Series aligned by name, or the name of a boolean `obs` column."""
    if cells is None:
        return np.ones(rna.n_obs, dtype=bool)
    if isinstance(cells, str):
        what, cells = f"obs[{cells!r}]", column(data, rna, cells)
    if isinstance(cells, pd.Series):
        missing = rna.obs_names.difference(cells.index)
        if len(missing):
            raise ValueError(f"{what} says nothing about {len(missing)} cells: {listed(missing)}.")
        cells = cells.reindex(rna.obs_names)
        if cells.isna().any():
            raise ValueError(
                f"{what} is missing for {listed(rna.obs_names[cells.isna()])}; fill it with False."
            )
    found = np.asarray(cells)
    if found.shape != (rna.n_obs,) or not all(isinstance(v, (bool, np.bool_)) for v in found):
        raise ValueError(
            f"{what} must hold one boolean for each of {rna.n_obs} cells; found {found.dtype} "
            f"{found.shape}."
        )
    return found.astype(bool)


def positions(protein: Protein, marker: str) -> list[int]:
    """Where a marker is: by its exact name, else as a word of the names (see `_protein_names`)."""
    return _protein_names.positions(list(protein.names), marker)


def lookup(protein: Protein, marker: str) -> int:
    """The one position of a marker."""
    found = positions(protein, marker)
    if len(found) == 1:
        return found[0]
    if found:
        raise KeyError(
            f"{marker!r} fits more than one protein in {protein.where}: "
            f"{listed(protein.names[found])}; "
            f"name one of them exactly, e.g. {protein.names[found[0]]!r} in place of {marker!r}."
        )
    ordered = _protein_names.closest_first(list(protein.names), marker)
    raise KeyError(
        f"{marker!r} is not among the {len(ordered)} proteins in {protein.where}, closest "
        f"first: {listed(ordered, 200)}. "
        "If one of them is meant, give its name exactly."
    )


@dataclass(frozen=True)
class Levels:
    """One protein per cell: normalised level, the same with ties spread for a density fit, and counts where known."""

    level: np.ndarray
    spread: np.ndarray
    counts: np.ndarray | None
    left_out: tuple[str, ...] = ()  # proteins that the scale of a cell could not take in


def levels(
    protein: Protein, j: int, normalize: str, batch: np.ndarray, gated: np.ndarray
) -> Levels:
    """Level of protein `j`, whose own values alone must be right.

    The gated cells of a batch set the zero of `clr_protein`.
    """
    choice(normalize, NORMALIZE, "normalize")
    x = protein.values[:, [j]].toarray().ravel().astype(np.float64)
    _refuse(protein, j, x, ~np.isfinite(x), "NaN or infinite values", "fill or drop these cells")
    if normalize == "none":
        return Levels(x, x, None)
    remedy = "give the raw counts, or pass normalize='none' if they are normalised already"
    _refuse(protein, j, x, x < 0, "negative values", remedy)
    _refuse(protein, j, x, x != np.trunc(x), "values that are not whole numbers", remedy)
    left_out: tuple[str, ...] = ()
    if normalize == "clr_cell":
        (scale, left_out), centre = _depth(protein), np.zeros_like(x)
    else:
        scale = np.ones_like(x)
        centre = pd.Series(np.log1p(x)).where(gated).groupby(batch).transform("mean").to_numpy()
    spread = _spread(x, scale)
    return Levels(np.log1p(x / scale) - centre, np.log1p(spread / scale) - centre, x, left_out)


def _depth(protein: Protein) -> tuple[np.ndarray, tuple[str, ...]]:
    """Scale of each cell by the proteins that hold raw counts, and the names of the others, which are told."""
    counts = _are_counts(protein.values)
    left_out = tuple(protein.names[~counts])
    if left_out:
        warnings.warn(
            f"{len(left_out)} of {counts.size} proteins in {protein.where} hold values that "
            f"are not raw counts (missing, "
            f"negative or not whole) and are left out of the scale of a cell: "
            f"{listed(left_out)}. "
            "normalize='clr_protein' needs no other protein.",
            stacklevel=4,
        )
    logs = protein.values[:, counts].astype(np.float64)
    logs.data = np.log1p(logs.data)
    return np.exp(np.asarray(logs.mean(axis=1)).ravel()), left_out


def _are_counts(values: sparse.csr_matrix) -> np.ndarray:
    """A boolean per protein: all of its values are whole numbers of zero or more."""
    data = values.data
    bad = ~np.isfinite(data) | (data < 0) | (data != np.trunc(data))
    found: np.ndarray = np.bincount(values.indices[bad], minlength=values.shape[1]) == 0
    return found


def _spread(counts: np.ndarray, within: np.ndarray) -> np.ndarray:
    """Counts as if measured without rounding: evenly over ±½, in an order that does not depend on that of the cells.

    A pile of zeros is one point to a Gaussian mixture, which would take it for a population of its
    own.
    """
    steps = (
        np.arange(1, counts.size + 1) * ((np.sqrt(5) - 1) / 2)
    ) % 1 - 0.5  # golden ratio: even over any stretch
    spread = counts.astype(np.float64)
    spread[np.lexsort((within, counts))] += steps
    return spread


def _from_anndata(adata: AnnData, protein_key: str | None) -> Protein:
    if protein_key is None and not any(k in adata.obsm for k in _keys.PROTEIN_KEYS):
        _antibody_rows(adata)
    key = _choose(protein_key, adata.obsm, "adata.obsm", "protein_key")
    found, where = adata.obsm[key], f"adata.obsm[{key!r}]"
    names = (
        own_index(found.columns, adata.uns)
        if isinstance(found, pd.DataFrame)
        else _names(adata, key, found.shape[1])
    )
    return _protein(adata, found, names, where)


def _from_mudata(mdata: MuData, protein_key: str | None, rna_key: str | None) -> Protein:
    if mdata.isbacked:
        raise ValueError("mdata is backed; read it into memory first: mudata.read_h5mu(path).")
    prot_key = _choose(protein_key, mdata.mod, "mdata.mod", "protein_key", _keys.PROTEIN_KEYS)
    rest = {k: v for k, v in mdata.mod.items() if k != prot_key}
    rna_key = _choose(rna_key, rest, "mdata.mod", "rna_key", _keys.RNA_KEYS)
    rna, prot = _checks.adata.anndata(mdata[rna_key]), _checks.adata.anndata(mdata[prot_key])
    alone = rna.obs_names.symmetric_difference(prot.obs_names)
    if len(alone):
        raise ValueError(
            f"{len(alone)} cells are in only one of mdata[{rna_key!r}] ({rna.n_obs} cells) "
            f"and mdata[{prot_key!r}] "
            f"({prot.n_obs} cells): {listed(alone)}. Keep the shared ones: "
            f"sc_cll.pp.intersect_obs(mdata)."
        )
    order = prot.obs_names.get_indexer(rna.obs_names)
    return _protein(
        rna,
        None if prot.X is None else sparse.csr_matrix(prot.X)[order],
        prot.var_names,
        f"mdata[{prot_key!r}].X",
    )


def _choose(
    key: str | None,
    store: Mapping[str, Any],
    where: str,
    argument: str,
    usual: Sequence[str] = _keys.PROTEIN_KEYS,
) -> str:
    """The named key, or the only usual one that is there."""
    if key is not None:
        key_in(key, store, where, f"Choose one with {argument}=.")
        return key
    found = [k for k in usual if k in store]
    if len(found) != 1:
        why = "more than one of the usual names" if found else "none of the usual names"
        raise KeyError(
            f"{where} has {why} ({listed(found or usual, 12)}); it holds "
            f"{listed(store, 12)}. Choose one with {argument}=."
        )
    return found[0]


def _antibody_rows(adata: AnnData) -> None:
    """A 10x matrix with the antibodies still among the genes gets its own sentence."""
    found = _checks.features.of(adata.var)
    if found.n_others:
        raise ValueError(
            f"{found.told}, and lie among the genes; part them first: is_gene = "
            f"{found.selection('adata')}; "
            "data = mudata.MuData({'rna': adata[:, is_gene].copy(), 'prot': adata[:, "
            "~is_gene].copy()})."
        )


def _names(adata: AnnData, key: str, n: int) -> pd.Index:
    """Protein names of an unnamed array: `uns[<key>_names]` or, as scvi-tools has it, `uns['protein_names']`."""
    for candidate in (f"{key}_names", "protein_names"):
        if candidate in adata.uns:
            names = pd.Index([str(v) for v in adata.uns[candidate]])
            if len(names) != n:
                raise ValueError(
                    f"adata.uns[{candidate!r}] holds {len(names)} names for the {n} columns "
                    f"of adata.obsm[{key!r}]."
                )
            return names
    raise KeyError(
        f"adata.obsm[{key!r}] is an array without column names; make it a DataFrame, or put "
        f"its {n} names into "
        f"adata.uns[{key + '_names'!r}] or adata.uns['protein_names']."
    )


def _protein(rna: AnnData, found: Any, names: pd.Index, where: str) -> Protein:
    if found is None:
        raise ValueError(f"{where} is empty (None); put the protein counts there.")
    values = sparse.csr_matrix(
        _checks.adata.table_numbers(found) if isinstance(found, pd.DataFrame) else found
    )
    names = pd.Index([str(n) for n in names])
    remedy = (
        f"{where}.columns = anndata.utils.make_index_unique({where}.columns), or name each "
        f"antibody once"
    )
    unique(names, f"protein names of {where}", remedy)
    return Protein(rna, values, names, where)


def _refuse(
    protein: Protein, j: int, x: np.ndarray, bad: np.ndarray, what: str, remedy: str
) -> None:
    """Name the first value of protein `j` that is bad."""
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"{protein.where} holds {what}, first {x[i]:g} (cell "
            f"{protein.rna.obs_names[i]!r}, protein {protein.names[j]!r}); {remedy}."
        )
