"""The protein of a CITE-seq object: its matrix, the place of a marker, and comparable levels."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from scbert_cll import _checks, _keys
from scbert_cll._checks.words import choice, closest_first, key_in, listed, unique
from scbert_cll._names import own_index
from scbert_cll._protein import names as protein_names

type Data = AnnData | MuData
Normalize = Literal["clr_cell", "clr_protein", "none"]


@dataclass(frozen=True)
class Protein:
    """Protein counts in the order of the cells of `rna`, and where they came from."""

    rna: AnnData
    values: sparse.csr_matrix
    names: pd.Index
    where: str

    @classmethod
    def of(cls, rna: AnnData, values: Any, names: pd.Index, where: str) -> Protein:
        """From any matrix; every protein has a name of its own."""
        names, columns = names.map(str), f"{where}.columns"
        remedy = f"{columns} = anndata.utils.make_index_unique({columns}), or name each antibody "
        unique(names, f"protein names of {where}", f"{remedy}once")
        return cls(rna, sparse.csr_matrix(values), names, where)


def find(data: Data, protein_key: str | None, rna_key: str | None = None) -> Protein:
    """Protein matrix of an AnnData (`obsm`) or MuData (a modality), with the cells of the RNA."""
    if isinstance(data, MuData):
        return _of_mudata(data, protein_key, rna_key)
    return _of_anndata(_checks.adata.anndata(data), protein_key)


def column(data: Data, rna: AnnData, key: str) -> pd.Series:
    """A column of the RNA's `obs`, or else of the MuData's own, aligned to the RNA's cells.

    "rna:donor" is the column of the modality.
    """
    if not isinstance(data, MuData):
        return _checks.adata.obs_column(rna, key)
    name = next(name for name, part in data.mod.items() if part is rna)
    obs = cast("pd.DataFrame", rna.obs)
    bare = key.removeprefix(f"{name}:")
    for values in (obs.get(key), data.obs.get(key), obs.get(bare)):
        if values is not None:
            return values.reindex(rna.obs_names)
    where, remedy = f"mdata[{name!r}].obs", ""
    if others := [other for other, part in data.mod.items() if key in part.obs]:
        source = f"mdata[{others[0]!r}].obs[{key!r}]"
        remedy = f" It is in that of another modality: {where}[{key!r}] = {source}."
    columns = closest_first(key, dict.fromkeys([*obs, *data.obs]))
    raise KeyError(
        f"{key!r} is neither in {where} nor in mdata.obs; they have {listed(columns, 12)}.{remedy}"
    )


def donors(data: Data, rna: AnnData, key: str, cells: np.ndarray) -> pd.Series:
    """Donor of each of the RNA's cells, wherever the column is; None for cells of no donor."""
    values = column(data, rna, key) if isinstance(data, MuData) else None
    return _checks.people.donors(rna, key, column=values, cells=cells)


def mask(data: Data, rna: AnnData, cells: Any) -> np.ndarray:
    """A boolean per cell from a mask, a Series aligned by name, or a boolean `obs` column."""
    if cells is None:
        return np.ones(rna.n_obs, dtype=bool)
    what = "cells"
    if isinstance(cells, str):
        what, cells = f"obs[{cells!r}]", column(data, rna, cells)
    if isinstance(cells, pd.Series):
        if len(absent := rna.obs_names.difference(cells.index)):
            n = len(absent)
            raise ValueError(f"{what} says nothing about {n} cells: {listed(absent)}.")
        cells = cells.reindex(rna.obs_names)
        if len(absent := rna.obs_names[cells.isna()]):
            remedy = "fill it with False"
            raise ValueError(f"{what} is missing for {listed(absent)}; {remedy}.")
    chosen = np.asarray(cells)
    are_booleans = all(isinstance(value, (bool, np.bool_)) for value in chosen.flat)
    if chosen.shape != (rna.n_obs,) or not are_booleans:
        raise ValueError(
            f"{what} must hold one boolean for each of {rna.n_obs} cells; found {chosen.dtype} "
            f"{chosen.shape}."
        )
    return chosen.astype(bool)


def lookup(protein: Protein, marker: str) -> int:
    """The one position of a marker: by its exact name, else as a word of the names."""
    names = list(protein.names)
    places = protein_names.positions(names, marker)
    if len(places) == 1:
        return places[0]
    if places:
        alike = [names[i] for i in places]
        raise KeyError(
            f"{marker!r} fits more than one protein in {protein.where}: {listed(alike)}; name one "
            f"of them exactly, e.g. {alike[0]!r} in place of {marker!r}."
        )
    ordered = protein_names.closest_first(names, marker)
    raise KeyError(
        f"{marker!r} is not among the {len(ordered)} proteins in {protein.where}, closest "
        f"first: {listed(ordered, 200)}. If one of them is meant, give its name exactly."
    )


@dataclass(frozen=True)
class Levels:
    """One protein in every cell."""

    level: np.ndarray  # normalised
    spread: np.ndarray  # the same with ties spread, for a density fit
    counts: np.ndarray | None  # where known
    batch: np.ndarray
    gated: np.ndarray  # bool: the cells that matter
    left_out: tuple[str, ...] = ()  # proteins that are not in the scale of a cell


def levels(
    protein: Protein, j: int, normalize: str, batch: np.ndarray, gated: np.ndarray
) -> Levels:
    """Level of protein `j`, whose own values alone must be right.

    The gated cells of a batch set the zero of `clr_protein`.
    """
    choice(normalize, get_args(Normalize), "normalize")
    x = protein.values[:, [j]].toarray().ravel().astype(np.float64)
    problems = [(~np.isfinite(x), "NaN or infinite values", "fill or drop these cells")]
    if normalize != "none":
        raw = "give the raw counts, or pass normalize='none' if they are normalised already"
        problems.append((x < 0, "negative values", raw))
        problems.append((x != np.trunc(x), "values that are not whole numbers", raw))
    for is_bad, what, remedy in problems:
        if is_bad.any():
            i = int(np.flatnonzero(is_bad)[0])
            raise ValueError(
                f"{protein.where} holds {what}, first {x[i]:g} (cell "
                f"{protein.rna.obs_names[i]!r}, protein {protein.names[j]!r}); {remedy}."
            )
    if normalize == "none":
        return Levels(x, x, None, batch, gated)
    if normalize == "clr_cell":
        (scale, left_out), centre = _depth(protein), np.zeros_like(x)
    else:
        scale, left_out = np.ones_like(x), ()
        by_batch = pd.Series(np.log1p(x)).where(gated).groupby(batch)
        centre = by_batch.transform("mean").to_numpy()
    level = np.log1p(x / scale) - centre
    spread = np.log1p(_spread(x, scale) / scale) - centre
    return Levels(level, spread, x, batch, gated, left_out)


def _depth(protein: Protein) -> tuple[np.ndarray, tuple[str, ...]]:
    """Scale of each cell by the proteins that hold raw counts, and the names of the others."""
    data = protein.values.data
    is_bad = ~np.isfinite(data) | (data < 0) | (data != np.trunc(data))
    n_proteins = len(protein.names)
    are_counts = np.bincount(protein.values.indices[is_bad], minlength=n_proteins) == 0
    left_out = tuple(protein.names[~are_counts])
    if left_out:
        warnings.warn(
            f"{len(left_out)} of {n_proteins} proteins in {protein.where} hold values that are "
            "not raw counts (missing, negative or not whole) and are left out of the scale of a "
            f"cell: {listed(left_out)}. normalize='clr_protein' needs no other protein.",
            stacklevel=4,
        )
    logs = protein.values[:, are_counts].astype(np.float64).log1p()
    return np.exp(np.asarray(logs.mean(axis=1)).ravel()), left_out


def _spread(counts: np.ndarray, within: np.ndarray) -> np.ndarray:
    """Counts as if measured without rounding: evenly over ±½, whatever the order of the cells.

    A pile of zeros is one point to a Gaussian mixture, which would take it for a population of its
    own.
    """
    golden = (np.sqrt(5) - 1) / 2  # its multiples are even over any stretch
    spread = counts.astype(np.float64)
    steps = (np.arange(1, counts.size + 1) * golden) % 1 - 0.5
    spread[np.lexsort((within, counts))] += steps
    return spread


def _of_anndata(adata: AnnData, protein_key: str | None) -> Protein:
    has_usual = any(name in adata.obsm for name in _keys.PROTEIN_KEYS)
    if protein_key is None and not has_usual:
        features = _checks.genes.features_of(adata.var)
        if features.n_others:  # a 10x matrix with the antibodies among the genes
            raise ValueError(
                f"{features.summary}, and lie among the genes; separate them first: is_gene = "
                f"{features.selection('adata')}; data = mudata.MuData({{'rna': adata[:, "
                "is_gene].copy(), 'prot': adata[:, ~is_gene].copy()})."
            )
    key = _choose("protein_key", protein_key, adata.obsm, "adata.obsm")
    values, where = adata.obsm[key], f"adata.obsm[{key!r}]"
    if isinstance(values, pd.DataFrame):
        names = own_index(values.columns, adata.uns)
        return Protein.of(adata, _checks.adata.table_numbers(values), names, where)
    # an unnamed array: its own entry or, as scvi-tools has it, protein_names
    n, entries = values.shape[1], (f"{key}_names", "protein_names")
    entry = next((entry for entry in entries if entry in adata.uns), None)
    if entry is None:
        raise KeyError(
            f"{where} is an array without column names; make it a DataFrame, or put its "
            f"{n} names into {' or '.join(f'adata.uns[{entry!r}]' for entry in entries)}."
        )
    if len(names := pd.Index(list(adata.uns[entry]), dtype=object)) != n:
        raise ValueError(
            f"adata.uns[{entry!r}] holds {len(names)} names for the {n} columns of {where}."
        )
    return Protein.of(adata, values, names, where)


def _of_mudata(mdata: MuData, protein_key: str | None, rna_key: str | None) -> Protein:
    if mdata.isbacked:
        remedy = "read it into memory first: mudata.read_h5mu(path)"
        raise ValueError(f"mdata is backed; {remedy}.")
    prot_key = _choose("protein_key", protein_key, mdata.mod, "mdata.mod")
    rest = {name: part for name, part in mdata.mod.items() if name != prot_key}
    rna_key = _choose("rna_key", rna_key, rest, "mdata.mod")
    rna, prot = (_checks.adata.anndata(mdata[name]) for name in (rna_key, prot_key))
    if len(alone := rna.obs_names.symmetric_difference(prot.obs_names)):
        raise ValueError(
            f"{len(alone)} cells are in only one of mdata[{rna_key!r}] ({rna.n_obs} cells) and "
            f"mdata[{prot_key!r}] ({prot.n_obs} cells): {listed(alone)}. Keep the shared ones: "
            "sc_cll.pp.intersect_obs(mdata)."
        )
    where = f"mdata[{prot_key!r}].X"
    if prot.X is None:
        raise ValueError(f"{where} is empty (None); put the protein counts there.")
    order = prot.obs_names.get_indexer(rna.obs_names)
    return Protein.of(rna, sparse.csr_matrix(prot.X)[order], prot.var_names, where)


def _choose(argument: str, key: str | None, store: Collection[str], where: str) -> str:
    """The named key, or the only usual one that is there."""
    if key is not None:
        key_in(key, store, where, f"Choose one with {argument}=.")
        return key
    usual = _keys.RNA_KEYS if argument == "rna_key" else _keys.PROTEIN_KEYS
    present = [name for name in usual if name in store]
    if len(present) != 1:
        why = f"{'more than one' if present else 'none'} of the usual names"
        raise KeyError(
            f"{where} has {why} ({listed(present or usual, 12)}); it holds {listed(store, 12)}. "
            f"Choose one with {argument}=."
        )
    return present[0]
