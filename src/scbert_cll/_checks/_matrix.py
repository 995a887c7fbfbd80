"""Checks of a matrix of counts."""

from __future__ import annotations

import numpy as np
from anndata import AnnData
from scipy import sparse

from scbert_cll._checks._words import key_in, listed


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
        csr = csr.copy()  # it shares the arrays of the user's matrix
        csr.sum_duplicates()
    if csr.data.min(initial=0) >= 0 and np.isfinite(csr.data.max(initial=0)):  # a NaN makes both NaN
        return csr
    bad, what = ~np.isfinite(csr.data), "NaN or infinite"
    if not bad.any():
        bad, what = csr.data < 0, "negative"
    raise ValueError(f"{where} holds {what} values, first {first(csr, bad, adata)}; expected raw counts, zero or more.")


def counts(adata: AnnData, layer: str | None) -> sparse.csr_matrix:
    """`matrix`, and all values whole numbers: raw counts."""
    csr = matrix(adata, layer)
    where = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
    if not are_whole(csr.data):
        bad = csr.data != np.trunc(csr.data)
        log = "log1p" in adata.uns or csr.data.max() < 20
        hint = " It looks log-transformed." if log else ""
        raise ValueError(
            f"{where} must hold raw counts (whole numbers); first other value: {first(csr, bad, adata)}.{hint} "
            f"Name the layer with the raw counts; this object has layers {listed(filter(None, adata.layers.keys()))}."
        )
    return csr


def are_whole(values: np.ndarray) -> bool:
    """Whether all values are whole numbers; taken in parts that stay in the processor's cache."""
    parts = (values[i : i + 2**16] for i in range(0, len(values), 2**16)) if values.dtype.kind == "f" else ()
    return all((np.trunc(part) == part).all() for part in parts)


def first(csr: sparse.csr_matrix, bad: np.ndarray, adata: AnnData) -> str:
    """Name the first stored value that is bad: its value, cell and gene."""
    i = int(np.flatnonzero(bad)[0])
    row = int(np.searchsorted(csr.indptr, i, side="right") - 1)
    return f"{csr.data[i]:g} (cell {adata.obs_names[row]!r}, gene {adata.var_names[csr.indices[i]]!r})"
