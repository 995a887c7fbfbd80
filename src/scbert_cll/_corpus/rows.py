"""Rows of a matrix on disk, some at a time: by cells, by genes, or every number written out."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from anndata.io import read_elem, sparse_dataset
from scipy import sparse

from scbert_cll import _checks
from scbert_cll._checks.words import bytes_in_words
from scbert_cll._corpus.elements import is_group


class Rows(Protocol):
    """Rows of a matrix on disk."""

    n_rows: int

    def stored_before(self, row: int) -> int:
        """Values that are read for the rows before this one."""
        ...

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        """Rows from `start` up to `stop`."""
        ...


def rows_of(matrix: Any, memory: int) -> Rows:
    """Rows of what anndata wrote; one that is stored by genes may take `memory` bytes."""
    if not is_group(matrix):
        return Dense(matrix)
    backed = sparse_dataset(matrix)
    if backed.format == "csr":
        return Csr(matrix, backed.shape)
    return _Csc(matrix, backed.shape, memory)


class Csr:
    """By cells, as most files are."""

    def __init__(self, group: Any, shape: tuple[int, int]) -> None:
        self.n_rows, self._n_columns = shape
        self._data, self._indices = group["data"], group["indices"]
        n_values = min(self._data.shape[0], self._indices.shape[0])
        self._indptr = _borders(group, n_values, self.n_rows)

    def stored_before(self, row: int) -> int:
        return int(self._indptr[row])

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        first, last = self._indptr[start], self._indptr[stop]
        columns = self._indices[first:last]
        _refuse_outside(columns, self._n_columns)
        indptr = (self._indptr[start : stop + 1] - first).astype(np.int32)
        parts = self._data[first:last], columns.astype(np.int32, copy=False), indptr
        return sparse.csr_matrix(parts, shape=(stop - start, self._n_columns))


class Dense:
    """Every number written out."""

    def __init__(self, dataset: Any) -> None:
        self.n_rows, self._n_columns = dataset.shape
        self._dataset = dataset

    def stored_before(self, row: int) -> int:
        return row * int(self._n_columns) // 8  # a zero is gone as soon as it is read

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        return _checks.counts.as_csr(self._dataset[start:stop], "its matrix")


class _Csc:
    """By genes: read as a whole, when it is first needed."""

    def __init__(self, group: Any, shape: tuple[int, int], memory: int) -> None:
        self.n_rows, self._group = shape[0], group
        self._csr: sparse.csr_matrix | None = None
        _borders(group, group["data"].shape[0], shape[1])
        n_bytes = 2 * (group["data"].nbytes + group["indices"].nbytes)
        if n_bytes > memory:
            raise ValueError(
                f"its matrix is stored by genes (CSC) and needs {bytes_in_words(n_bytes)} at once, "
                f"more than memory allows ({bytes_in_words(memory)}). Raise memory, or write it by "
                "cells: adata.X = adata.X.tocsr()"
            )

    def stored_before(self, row: int) -> int:
        return int(self._whole().indptr[row])

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        return self._whole()[start:stop]

    def _whole(self) -> sparse.csr_matrix:
        if self._csr is None:
            _refuse_outside(self._group["indices"][:], self.n_rows)
            self._csr = sparse.csr_matrix(read_elem(self._group))
        return self._csr


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
