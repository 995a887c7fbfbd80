"""Checks of binned layers: not twice, and the way a model expects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scbert_cll._checks.counts import is_binned, matrix
from scbert_cll._checks.features import of as features_of
from scbert_cll._checks.features import only_genes
from scbert_cll._checks.matrix import are_whole, first
from scbert_cll._checks.words import key_in, listed
from scbert_cll._counts import slot_name

# A matrix at least this large whose largest value is no more than the number of bins is taken for
# binned data.
_LOOKS_BINNED_CELLS, _LOOKS_BINNED_GENES = 50, 200
# With more bins than this raw counts may stay below them, too; tokens then give themselves away by
# their common maximum.
_FEW_BINS = 10


def not_binned(csr: sparse.csr_matrix, adata: AnnData, layer: str | None, n_bins: int) -> None:
    """Counts, not tokens: binning twice is a silent disaster."""
    where = slot_name(layer)
    if is_binned(adata, layer) or _looks_binned(csr, n_bins):
        raise ValueError(
            f"{where} looks binned already (its largest value is {csr.data.max(initial=0):g}, "
            f"n_bins={n_bins}); "
            "bin raw counts, once."
        )


def _looks_binned(csr: sparse.csr_matrix, n_bins: int) -> bool:
    """A large matrix that never exceeds a few bins, or that meets the number of bins exactly in most cells."""
    large = (
        csr.shape[0] >= _LOOKS_BINNED_CELLS and csr.shape[1] >= _LOOKS_BINNED_GENES and csr.nnz > 0
    )
    if not large or (largest := csr.data.max()) > n_bins:
        return False
    if n_bins <= _FEW_BINS:
        return True
    at_top = np.searchsorted(csr.indptr, np.flatnonzero(csr.data == largest), side="right")
    return bool(largest == n_bins and len(np.unique(at_top)) > csr.shape[0] / 2)


def other_key(key_added: str, layer: str | None) -> None:
    """Results never replace the counts they are made from."""
    if key_added == layer:
        raise ValueError(
            f"key_added={key_added!r} is the layer with the counts and would replace it; take "
            f"another name."
        )


def same_or_default(
    asked: Mapping[str, Any], edges: Any, default: Mapping[str, Any], fit_on: object
) -> dict[str, Any]:
    """The parameters `edges` were made with.

    What was asked for beside them must agree or be the default.
    """
    if (
        not isinstance(edges, Mapping)
        or "edges" not in edges
        or not set(asked) <= set(edges.get("params", {}))
    ):
        raise ValueError(
            "edges must be the whole entry that pp.bin_expression left in the other object: "
            "adata.uns['binned']."
        )
    if fit_on is not None:
        raise ValueError(
            "edges= are ready-made, there is nothing to fit: give either edges or fit_on."
        )
    made = {name: type(value)(edges["params"][name]) for name, value in default.items()}
    if other := [
        f"{n}={v!r} (edges: {made[n]!r})"
        for n, v in asked.items()
        if v not in (default[n], made[n])
    ]:
        raise ValueError(
            f"The edges were made with other parameters than {', '.join(other)}; leave these out."
        )
    return made


def edges_of_genes(edges: Any, adata: AnnData) -> Any:
    """Edges as they are, or, where every gene has its own, in the order of the genes of `adata`."""
    if not isinstance(edges, pd.DataFrame):
        return np.asarray(edges, dtype=np.float64)
    ours, theirs = adata.var_names.difference(edges.index), edges.index.difference(adata.var_names)
    if len(ours) or len(theirs):
        raise ValueError(
            f"The edges belong to other genes: without edges {listed(ours)}; edges without a "
            f"gene {listed(theirs)}. "
            "Align first: pp.align_genes(adata, vocab) with the genes the edges were made on."
        )
    return edges.loc[adata.var_names]


def tokens(adata: AnnData, layer: str) -> tuple[sparse.csr_matrix, Mapping[str, Any]]:
    """A layer that pp.bin_expression wrote, and its record in `uns`."""
    key_in(layer, adata.layers, "adata.layers", "Bin the counts first: pp.bin_expression(adata).")
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
            f"{first(csr, bad, adata)}. Bin again."
        )
    return csr, record


def same_binning(
    found: Mapping[str, Any], expected: Mapping[str, Any], where: str, remedy: str = ""
) -> None:
    """Tokens cut the way the model's training data were."""
    differing = [
        f"{name} is {found['params'].get(name)!r}, the model has {expected['params'].get(name)!r}"
        for name in ("method", "n_bins", "target_sum")
        if found["params"].get(name) != expected["params"].get(name)
    ]
    if not differing and not _same_edges(found["edges"], expected["edges"]):
        differing = ["its edges were learned from other cells"]
    if differing:
        raise ValueError(
            f"{where} was binned differently from the model's training data: "
            f"{'; '.join(differing)}. "
            f"Bin the counts again like the model's: "
            f"{remedy or 'pp.bin_expression(adata, edges=model.binning)'}."
        )


def _same_edges(found: Any, expected: Any) -> bool:
    if isinstance(expected, pd.DataFrame):
        if not isinstance(found, pd.DataFrame):
            return False
        genes = expected.index.intersection(found.index)
        found, expected = found.loc[genes], expected.loc[genes]
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    return found.shape == expected.shape and np.allclose(found, expected)


def tokens_in_every_cell(n_tokens: np.ndarray, adata: AnnData, layer: str) -> None:
    """Every cell has a gene to attend to."""
    empty = adata.obs_names[n_tokens == 0]
    if len(empty):
        raise ValueError(
            f"{len(empty)} cells have no gene above bin 0 among the model's genes in "
            f"adata.layers[{layer!r}] "
            f"({listed(empty)}); remove them first."
        )
