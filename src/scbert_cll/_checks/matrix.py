"""Checks of a matrix, whatever it is stored as."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

FLOAT16_WHOLE = 2048  # above this a float16 has no odd numbers


def can_be_copied(found: Any, where: str) -> None:
    """No sparse matrix of a type that SciPy cannot copy."""
    if sparse.issparse(found) and found.dtype == np.float16:
        raise ValueError(
            f"{where} is a sparse matrix of float16, which SciPy cannot copy: {where}.data = "
            f"{where}.data.astype('float32')."
        )


def as_csr(found: Any, where: str) -> sparse.csr_matrix:
    """Any matrix of numbers (sparse, dense, lazy, masked, of objects) as canonical CSR in memory.

    Never the user's own arrays changed.
    """
    csr = sparse.csr_matrix(_as_numbers(in_core(found), where))
    if not csr.has_canonical_format:
        csr = csr.copy()  # it shares the arrays of the user's matrix
        csr.sum_duplicates()
    return csr


def stored_as(found: Any) -> str:
    """``sparse``, ``dense``, or ``other`` for what Python of NumPy and SciPy does not take as it is."""
    if sparse.issparse(found):
        return "sparse"
    return "dense" if isinstance(found, np.ndarray) and found.dtype.kind in "biuf" else "other"


def are_whole(values: np.ndarray) -> bool:
    """Whether all values are whole numbers; taken in parts that stay in the processor's cache."""
    parts = (
        (values[i : i + 2**16] for i in range(0, len(values), 2**16))
        if values.dtype.kind == "f"
        else ()
    )
    return all((np.trunc(part) == part).all() for part in parts)


def are_finite(values: np.ndarray) -> bool:
    """Whether all values are finite and none is negative."""
    return bool(
        values.min(initial=0) >= 0 and np.isfinite(values.max(initial=0))
    )  # a NaN makes both NaN


def first(
    csr: sparse.csr_matrix, bad: np.ndarray, adata: AnnData, genes: pd.Index | None = None
) -> str:
    """Name the first stored value that is bad: its value, cell and gene."""
    i = int(np.flatnonzero(bad)[0])
    row = int(np.searchsorted(csr.indptr, i, side="right") - 1)
    genes = adata.var_names if genes is None else genes
    return f"{csr.data[i]:g} (cell {adata.obs_names[row]!r}, gene {genes[csr.indices[i]]!r})"


def in_core(found: Any) -> Any:
    """A matrix as it is, or read if it is lazy (dask) or on disk."""
    if hasattr(found, "compute"):
        found = found.compute()
    return found.to_memory() if hasattr(found, "to_memory") else found


def _as_numbers(found: Any, where: str) -> Any:
    """A sparse matrix or array in a type that sparse matrices have."""
    if isinstance(found, np.ma.MaskedArray):
        if np.ma.is_masked(found):
            raise ValueError(
                f"{where} is a masked array, and {int(np.ma.getmaskarray(found).sum())} of "
                f"its values are masked. If these are zeros: "
                f"{where} = {where}.filled(0)."
            )
        found = found.data
    if sparse.issparse(found):
        if found.dtype == np.float16:
            found = found.tocsr()
            wide = found.data.astype(np.float32)
            return sparse.csr_matrix((wide, found.indices, found.indptr), shape=found.shape)
        return found.astype(np.uint8) if found.dtype == bool else found
    array = np.asarray(found)
    if array.dtype == object:
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{where} holds objects that are no numbers ({error}); expected raw counts."
            ) from error
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{where} holds {array.dtype}, expected numbers: raw counts.")
    narrow = {np.dtype(bool): np.uint8, np.dtype(np.float16): np.float32}
    return array.astype(narrow.get(array.dtype, array.dtype), copy=False)
