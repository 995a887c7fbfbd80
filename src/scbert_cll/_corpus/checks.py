"""Checks of what a corpus is built from."""

from __future__ import annotations

import errno
import importlib.util
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from scbert_cll import _keys
from scbert_cll._checks.paths import plain_or_folder
from scbert_cll._checks.people import donor_name
from scbert_cll._checks.tokens import look_binned
from scbert_cll._checks.words import closest_first, key_in, listed

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]*)?) *([KMGT]?)I?B?", re.IGNORECASE)
_STEP = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def corpus_extra() -> None:
    """What reads and writes a corpus is installed (looked for, not imported: it brings PyTorch)."""
    if importlib.util.find_spec("annbatch") is None or importlib.util.find_spec("zarr") is None:
        raise ImportError("Corpora need annbatch. Remedy: pip install 'scbert-cll[corpus]'")


def memory_size(value: str | int) -> int:
    """Bytes of ``"1GB"``, ``"500 MB"`` or a number."""
    match = _SIZE.fullmatch(str(value).strip()) if isinstance(value, str | int) else None
    n_bytes = (
        int(float(match[1]) * _STEP[match[2].upper()])
        if match and not isinstance(value, bool)
        else 0
    )
    if n_bytes < 1:
        raise ValueError(
            f"memory must be a size such as '1GB', '500MB' or a number of bytes; found {value!r}."
        )
    return n_bytes


def source_files(paths: Any) -> list[Path]:
    """Files, each named once."""
    paths = [paths] if isinstance(paths, str | PathLike) else paths
    if not isinstance(paths, Iterable):
        raise TypeError(
            f"paths must be files (.h5ad, .h5mu, .zarr or 10x .h5); found {type(paths).__name__}."
        )
    files = [Path(path) for path in paths]
    if not files:
        raise ValueError(
            "paths names no file; a corpus is built from .h5ad, .h5mu, .zarr or 10x .h5 files."
        )
    if absent := [str(file) for file in files if not file.exists()]:
        raise FileNotFoundError(
            f"{len(absent)} of {len(files)} files are not there: {listed(absent)}."
        )
    for file in files:
        plain_or_folder(file)
    whole = [file.resolve() for file in files]
    if twice := sorted(
        {str(file) for file, at in zip(files, whole, strict=True) if whole.count(at) > 1}
    ):
        raise ValueError(f"paths names a file more than once: {listed(twice)}. Name each once.")
    return files


def learned_bins(method: str, edges: Any) -> None:
    """Edges that are learned cannot be learned from cells that stream past."""
    if edges is None and method in ("uniform", "gene_quantile"):
        raise ValueError(
            f"method={method!r} learns its edges from cells, and a corpus is read block by "
            f"block: bin a sample of training cells with "
            f"pp.bin_expression(sample, method={method!r}) and pass "
            f"edges=sample.uns['binned']. log2 and quantile need none."
        )


def same_call(asked: Mapping[str, Any], found: Mapping[str, Any], folder: Path) -> None:
    """A build that is gone on with was begun with the same parameters and files."""
    differing = [
        f"{name} (was {found.get(name)!r}, now {asked[name]!r})"
        for name in asked
        if asked[name] != found.get(name)
    ]
    if differing:
        raise ValueError(
            f"{folder} holds a build that was begun differently: {'; '.join(differing)}. Call "
            f"it the same way to go on, or delete "
            f"{folder} to begin anew."
        )


def unchanged(changed: Sequence[str], folder: Path) -> None:
    """Files are still what was read of them."""
    if changed:
        raise ValueError(
            f"{len(changed)} files are not what they were when {folder} was begun: "
            f"{listed(changed)}. Restore them, or delete {folder} to "
            "begin anew."
        )


def still_the_same(*, same: bool, name: str) -> None:
    """A file does not change between the two passes."""
    if not same:
        raise ValueError(
            f"{name} changed while the corpus was built; leave files alone until it is done, "
            f"and build anew."
        )


def no_bad_files(bad: Mapping[str, str], n_files: int) -> None:
    """All files can be used."""
    if bad:
        reasons = "\n".join(f"  {name}: {reason}" for name, reason in bad.items())
        raise ValueError(
            f"{len(bad)} of {n_files} files cannot be used, so nothing was "
            f"written:\n{reasons}\nMend them or leave them out; "
            "on_error='skip' leaves such files out and reports them."
        )


def some_cells(n_cells: int, n_files: int, bad: Mapping[str, str], min_genes: int) -> None:
    """Something is left to build a corpus of."""
    if n_cells == 0:
        reasons = "".join(f"\n  {name}: {reason}" for name, reason in bad.items())
        raise ValueError(
            f"No cell is left: {len(bad)} of {n_files} files cannot be used, and no cell of "
            f"the others has {min_genes} expressed genes of the "
            f"vocabulary (min_genes).{reasons}"
        )


def enough_donors(donors: Sequence[str]) -> None:
    """One donor for each part."""
    if len(donors) < 2:
        raise ValueError(
            f"Validation holds donors out and needs at least two; found {listed(donors)}. "
            f"val_fraction=0 builds a corpus without "
            "a validation part; donor_key names the obs column of donors."
        )


def val_donors(asked: Any, donors: Sequence[str]) -> list[str]:
    """Donors that are there, and not all of them."""
    names = [
        donor_name(name)
        for name in (
            [asked] if isinstance(asked, str) or not isinstance(asked, Iterable) else asked
        )
    ]
    if unknown := [name for name in names if name not in donors]:
        raise KeyError(
            f"val_donors names {listed(unknown)}, which no kept cell has; the donors are "
            f"{listed(closest_first(unknown[0], donors), 12)}."
        )
    if not names or len(set(names)) == len(donors):
        raise ValueError(
            f"val_donors must leave donors on both sides; it names {len(set(names))} of "
            f"{len(donors)}. Without validation: val_fraction=0."
        )
    return sorted(set(names))


def new_folder(path: Path) -> None:
    """A place where nothing is."""
    if path.exists():
        raise FileExistsError(f"{path} exists; delete it, or name another folder.")


def new_columns(names: Sequence[str], taken: Sequence[str]) -> None:
    """Columns of obs that do not replace the corpus' own."""
    if bad := [name for name in names if name in taken]:
        raise ValueError(
            f"obs_columns names {listed(bad)}, which every corpus has (the donor of "
            f"donor_key, and the file); leave it out."
        )


def warn_of_skipped(reasons: Mapping[str, str]) -> None:
    """Say which files are not in the corpus."""
    if bad := [f"{name} ({reason})" for name, reason in reasons.items() if reason]:
        warnings.warn(
            f"{len(bad)} of {len(reasons)} files are not in the corpus: {'; '.join(bad[:5])}"
            + "; …" * (len(bad) > 5),
            stacklevel=3,
        )


def columns_somewhere(absent: Sequence[str], n_files: int) -> None:
    """Columns that at least one file has."""
    if absent:
        raise KeyError(
            f"obs_columns names {listed(absent)}, which none of the {n_files} files has in obs."
        )


def enough_space(free: int, needed: int, folder: Path) -> None:
    """Room for the corpus, as far as one can tell before."""
    if (
        free < needed / 2
    ):  # how well it can be compressed is not known: only what is clearly too little is refused
        raise OSError(
            errno.ENOSPC,
            f"The corpus needs about {gigabytes(needed)}, and the disk of {folder} has "
            f"{gigabytes(free)} left. Free some space, or name "
            "another disk",
        )


def disk_full(error: OSError, needed: int, folder: Path) -> OSError:
    """The same error, with what to do about it; for others as it is."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return error
    return OSError(
        error.errno,
        f"The disk is full; about {gigabytes(needed)} more are needed. Free them and call "
        f"pp.build_corpus the same way: it goes on from {folder}",
    )


def gigabytes(n_bytes: float) -> str:
    """A size in words."""
    return f"{n_bytes / 1e9:.2g} GB" if n_bytes >= 1e7 else f"{n_bytes / 1e6:.2g} MB"


# -- one file
# ---------------------------------------------------------------------------------------------------------


def is_hdf5(*, is_it: bool) -> None:
    """A file in HDF5, whole as far as its header goes."""
    if not is_it:
        raise ValueError(
            "is not an HDF5 file, or was cut off; .h5ad, .h5mu and 10x .h5 files are. A .zarr "
            "is a folder."
        )


def is_zarr(path: Path) -> None:
    """A folder that is a zarr store, and no corpus of ours."""
    if (path / "manifest.json").exists():
        raise ValueError("is a corpus already; a corpus is built from files of cells.")
    if not any((path / name).exists() for name in ("zarr.json", ".zgroup")):
        hint = (
            " Of Cell Ranger's matrix: sc.read_10x_mtx(path).write_h5ad('cells.h5ad')."
            if any(path.glob("matrix.mtx*"))
            else ""
        )
        raise ValueError(f"is a folder, and no zarr store as adata.write_zarr makes them.{hint}")


def has_x(*, there: bool, layers: Sequence[str], raw: bool) -> None:
    """A matrix where none is named."""
    if not there:
        where = [f"layer={name!r}" for name in layers] + (
            ["layer='raw' (adata.raw)"] if raw else []
        )
        raise ValueError(
            f"has no X. Name the layer with the raw counts; there are "
            f"{listed(where) if where else 'none'}."
        )


def known_layout(found: Iterable[str]) -> ValueError:
    """What to say of an HDF5 file that is something else."""
    return ValueError(
        f"is neither .h5ad (obs, var), .h5mu (mod) nor a 10x matrix of Cell Ranger 3 or later "
        f"(matrix); it holds {listed(found)}."
    )


def of_one_shape(indptr: np.ndarray, n_values: int, n_rows: int) -> None:
    """A sparse matrix whose parts fit together."""
    if (
        len(indptr) != n_rows + 1
        or indptr[0] != 0
        or indptr[-1] != n_values
        or (np.diff(indptr) < 0).any()
    ):
        raise ValueError(
            f"its sparse matrix is damaged: {len(indptr)} row borders up to {indptr[-1:]} for "
            f"{n_values} values."
        )


def within(indices: np.ndarray, n_columns: int) -> None:
    """Columns that the matrix has; others would be read from anywhere in memory."""
    if len(indices) and (indices.min() < 0 or indices.max() >= n_columns):
        raise ValueError(
            f"its sparse matrix is damaged: it names column {indices.max()} of {n_columns}."
        )


def by_cells(n_bytes: int, memory: int) -> None:
    """A matrix stored by genes is read as a whole, or not at all."""
    if n_bytes > memory:
        raise ValueError(
            f"its matrix is stored by genes (CSC) and needs {gigabytes(n_bytes)} at once, "
            f"more than memory allows ({gigabytes(memory)}). "
            "Raise memory, or write it by cells: adata.X = adata.X.tocsr()"
        )


def not_a_layer_of_tokens(*, is_binned: bool) -> None:
    """A layer that pp.bin_expression did not write."""
    if is_binned:
        raise ValueError(
            "its layer holds tokens of pp.bin_expression; name the layer with the raw counts."
        )


def not_tokens(largest: float, n_at_top: int, n_cells: int, n_genes: int, n_bins: int) -> None:
    """Counts, not tokens: over the whole file, since a block may hold small counts only."""
    if look_binned(largest, n_at_top, (n_cells, n_genes), n_bins):
        raise ValueError(
            f"looks binned already (its largest value is {largest:g}, n_bins={n_bins}); a "
            f"corpus is built from raw counts."
        )


def one_kind(key: str, numbers: Sequence[str], texts: Sequence[str]) -> None:
    """A column means the same in all files."""
    if numbers and texts:
        raise ValueError(
            f"obs[{key!r}] holds numbers in {listed(numbers, 3)} and text in "
            f"{listed(texts, 3)}; make it one kind, or leave it out of obs_columns."
        )


def rna_modality(modalities: Iterable[str], asked: str | None = None) -> str:
    """The modality that is RNA: the one that was asked for, or one with a usual name."""
    names = list(modalities)
    if asked is not None:
        key_in(asked, names, "its modalities", "Name the RNA with modality=.")
        return asked
    for name in _keys.RNA_KEYS:
        if name in names:
            return name
    raise KeyError(
        f"has no RNA modality ({listed(_keys.RNA_KEYS)}); it holds {listed(names)}. Name the "
        f"RNA with modality=."
    )


def no_modalities(asked: str | None) -> None:
    """A file of one matrix has no modality of any name."""
    if asked is not None:
        raise ValueError(
            f"it is one matrix without modalities, so modality={asked!r} is not in it; leave "
            f"that out."
        )


def chosen_cells(column: Any, key: str, there: Sequence[str]) -> np.ndarray:
    """Which cells a column of true and false chooses."""
    if column is None:
        key_in(
            key,
            [name for name in there if name != key],
            "obs",
            "cells= names a column of true and false.",
        )
    if column.isna().any() or not all(
        isinstance(value, bool | np.bool_) for value in column.unique()
    ):
        raise ValueError(
            f"obs[{key!r}], which cells= names, must be true or false for every cell; found "
            f"{listed(column.unique())}."
        )
    return np.asarray(column, dtype=bool)


def not_too_old(*, is_new: bool) -> None:
    """A layout of anndata 0.7 or later."""
    if not is_new:
        raise ValueError(
            "was written by an anndata before 0.7; read it and write it again: "
            "ad.read_h5ad(path).write_h5ad(path)."
        )


def of_a_donor(missing: np.ndarray, key: str) -> None:
    """Every cell belongs to somebody."""
    if len(missing):
        raise ValueError(
            f"obs[{key!r}] is missing for {len(missing)} cells ({listed(missing)}); fill it "
            f"or drop these cells."
        )


def counts_fit(csr: sparse.csr_matrix) -> None:
    """Counts that 32 bits hold."""
    if csr.data.max(initial=0) > np.iinfo(np.int32).max:
        raise ValueError(
            f"holds a count of {csr.data.max():g}, more than a corpus of raw counts can hold "
            f"(32 bits)."
        )
