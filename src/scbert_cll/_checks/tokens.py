"""Binned layers: not binned twice, and of which genes their totals are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scbert_cll._checks.counts import are_whole, first_of, matrix
from scbert_cll._checks.genes import features_of, only_genes
from scbert_cll._checks.words import key_in

# A matrix at least this large whose largest value is no more than the number of bins is taken for
# binned data. With more bins than a few, raw counts may stay below them, too; tokens then give
# themselves away by their common maximum.
_MIN_CELLS, _MIN_GENES = 50, 200
_FEW_BINS: Final = 10


def look_binned(largest: float, n_at_top: int, shape: tuple[int, int], n_bins: int) -> bool:
    """Whether a matrix never exceeds a few bins, or meets their number exactly in most cells.

    `n_at_top` is the number of cells that hold the largest value.
    """
    is_large = shape[0] >= _MIN_CELLS and shape[1] >= _MIN_GENES
    at_top = n_bins <= _FEW_BINS or (largest == n_bins and n_at_top > shape[0] / 2)
    return bool(is_large and 0 < largest <= n_bins and at_top)


def tokens(adata: AnnData, layer: str) -> tuple[sparse.csr_matrix, Mapping[str, Any]]:
    """A layer that pp.bin_expression wrote, and its record in `uns`."""
    remedy = "Bin the counts first: pp.bin_expression(adata)."
    key_in(layer, adata.layers, "adata.layers", remedy)
    record = adata.uns.get(layer)
    if not isinstance(record, Mapping) or "n_bins" not in record.get("params", {}):
        raise ValueError(
            f"adata.uns[{layer!r}] does not say how adata.layers[{layer!r}] was binned; write "
            f"both with pp.bin_expression."
        )
    only_genes(features_of(adata.var), then=", and bin again: pp.bin_expression(adata)")
    csr = matrix(adata, layer)
    largest = int(record["params"]["n_bins"])
    if csr.data.max(initial=0) > largest or not are_whole(csr.data):
        bad = (csr.data > largest) | (csr.data != np.trunc(csr.data))
        raise ValueError(
            f"adata.layers[{layer!r}] may hold bins 0 to {largest}; found "
            f"{first_of(csr, bad, adata)}. Bin again."
        )
    return csr, record


def totals_of(genes: pd.Index) -> dict[str, Any]:
    """Record of the genes whose counts make a cell's total: their number, and a checksum of names.

    The order of the names does not matter.
    """
    names = "\n".join(sorted(str(gene) for gene in genes))
    digest = hashlib.sha256(names.encode()).hexdigest()[:16]
    return {"n_genes": len(genes), "genes_digest": digest}
