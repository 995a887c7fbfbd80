"""What anndata writes, element by element, as HDF5 and zarr have it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from anndata.io import read_elem, sparse_dataset
from scipy import sparse

from scbert_cll import _checks
from scbert_cll._checks.words import bytes_in_words

type Categories = dict[str, pd.Index]  # by the names of their elements


def opened(path: Path) -> Any:
    """A file of HDF5, or a folder of zarr, open for reading."""
    if not path.is_dir():
        if not h5py.is_hdf5(_checks.files.plain_file(path)):
            raise ValueError(
                "is not an HDF5 file, or was cut off; .h5ad, .h5mu and 10x .h5 files are. A .zarr "
                "is a folder."
            )
        return h5py.File(path, rdcc_nbytes=2**25)
    import zarr

    if (path / "manifest.json").exists():
        raise ValueError("is a corpus already; a corpus is built from files of cells.")
    if not any((path / name).exists() for name in ("zarr.json", ".zgroup")):
        problem = "is a folder, but not a zarr store as adata.write_zarr makes them."
        if any(path.glob("matrix.mtx*")):
            read = "sc.read_10x_mtx(path).write_h5ad('cells.h5ad')"
            problem += f" Of Cell Ranger's matrix: {read}."
        raise ValueError(problem)
    return zarr.open_group(path, mode="r")


def is_group(elem: Any) -> bool:
    """Whether an element is a group, of HDF5 or zarr, not an array."""
    return hasattr(elem, "keys")


def index_of(table: Any) -> pd.Index:
    """Names of the rows of a table on disk."""
    names: pd.Index = pd.Index(values(table[table.attrs["_index"]], slice(None)))
    return names


def values(elem: Any, rows: slice, categories: Categories | None = None) -> pd.Series:
    """Some rows of a column: plain, text, categorical (also anndata 0.7's) or nullable.

    `categories` keeps those that were read before.
    """
    names = {} if categories is None else categories
    if is_group(elem) and "categories" in elem:
        return _categorical(elem["codes"][rows], elem["categories"], names)
    if is_group(elem):
        column, missing = values(elem["values"], rows), elem["mask"][rows]
        column = column.astype(object) if column.dtype == object else column
        return column.mask(missing)
    if "categories" in elem.attrs:
        return _categorical(elem[rows], elem.file[elem.attrs["categories"]], names)
    if hasattr(elem, "asstr") and h5py.check_string_dtype(elem.dtype) is not None:
        return pd.Series(elem.asstr()[rows], dtype=object)
    array = elem[rows]
    return pd.Series(array.astype(object) if array.dtype.kind in "OTU" else array)


def _categorical(codes: np.ndarray, names: Any, categories: Categories) -> pd.Series:
    if names.name not in categories:
        categories[names.name] = pd.Index(values(names, slice(None)))
    return pd.Series(pd.Categorical.from_codes(codes, categories[names.name]))


# ---- rows of a matrix: by cells, by genes, or every number written out


type Rows = Csr | Dense


def rows_of(matrix: Any, memory: int) -> Rows:
    """Rows of what anndata wrote; one that is stored by genes may take `memory` bytes."""
    if not is_group(matrix):
        return Dense(matrix)
    backed = sparse_dataset(matrix)
    if backed.format == "csr":
        return Csr(matrix, backed.shape)
    _borders(matrix, matrix["data"].shape[0], backed.shape[1])
    n_bytes = 2 * (matrix["data"].nbytes + matrix["indices"].nbytes)
    if n_bytes > memory:
        raise ValueError(
            f"its matrix is stored by genes (CSC) and needs {bytes_in_words(n_bytes)} at once, "
            f"more than memory allows ({bytes_in_words(memory)}). Raise memory, or write it by "
            "cells: adata.X = adata.X.tocsr()"
        )
    _refuse_outside(matrix["indices"][:], backed.shape[0])
    csr = sparse.csr_matrix(read_elem(matrix))
    parts = {"data": csr.data, "indices": csr.indices, "indptr": csr.indptr}
    return Csr(parts, backed.shape)


class Csr:
    """By cells, as most files are; on disk, or in memory."""

    def __init__(self, group: Any, shape: tuple[int, int]) -> None:
        self.n_rows, self._n_columns = shape
        self._data, self._indices = group["data"], group["indices"]
        n_values = min(self._data.shape[0], self._indices.shape[0])
        self._indptr = _borders(group, n_values, self.n_rows)

    def stored_before(self, row: int) -> int:
        """Values that are read for the rows before this one."""
        return int(self._indptr[row])

    def read(self, rows: slice) -> sparse.csr_matrix:
        """Neighbouring rows."""
        borders = self._indptr[rows.start : rows.stop + 1]
        first, last = borders[0], borders[-1]
        columns, indptr = self._indices[first:last], (borders - first).astype(np.int32)
        _refuse_outside(columns, self._n_columns)
        parts = np.array(self._data[first:last]), columns.astype(np.int32), indptr
        return sparse.csr_matrix(parts, shape=(len(indptr) - 1, self._n_columns))


class Dense:
    """Every number written out."""

    def __init__(self, dataset: Any) -> None:
        self.n_rows, self._n_columns = dataset.shape
        self._dataset = dataset

    def stored_before(self, row: int) -> int:
        """The same, about: a zero is gone as soon as it is read."""
        return row * int(self._n_columns) // 8

    def read(self, rows: slice) -> sparse.csr_matrix:
        """The same."""
        return _checks.counts.as_csr(self._dataset[rows], "its matrix")


def _borders(group: Any, n_values: int, n_rows: int) -> np.ndarray:
    """Where each row of a sparse matrix begins; its parts fit together."""
    indptr = np.asarray(group["indptr"][:], dtype=np.int64)
    fits = len(indptr) == n_rows + 1 and indptr[0] == 0 and indptr[-1] == n_values
    if not fits or (np.diff(indptr) < 0).any():
        raise ValueError(
            f"its sparse matrix is damaged: {len(indptr)} row borders up to {indptr[-1:]} for "
            f"{n_values} values."
        )
    return indptr


def _refuse_outside(columns: np.ndarray, n_columns: int) -> None:
    """Refuse columns that the matrix does not have: these would be read from anywhere in memory."""
    if len(columns) and (columns.min() < 0 or columns.max() >= n_columns):
        raise ValueError(
            f"its sparse matrix is damaged: it names column {columns.max()} of {n_columns}."
        )
