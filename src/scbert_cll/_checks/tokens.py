"""Binned layers: not binned twice, in the way a model expects, and from the same genes' totals."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scbert_cll._checks.counts import are_whole, first_of, matrix
from scbert_cll._checks.genes import features_of, only_genes
from scbert_cll._checks.words import key_in, listed

# A matrix at least this large whose largest value is no more than the number of bins is taken for
# binned data. With more bins than a few, raw counts may stay below them, too; tokens then give
# themselves away by their common maximum.
_MIN_CELLS, _MIN_GENES = 50, 200
_FEW_BINS: Final = 10
# numbers of genes that differ by less make much the same totals; where their names are not known
_ABOUT: Final = 0.1
_MANY_HIDDEN: Final = 0.05  # of the genes of a total


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


def tokens_in_every_cell(n_tokens: np.ndarray, adata: AnnData, layer: str) -> None:
    """Refuse cells without a gene to attend to."""
    if len(empty := adata.obs_names[n_tokens == 0]):
        raise ValueError(
            f"{len(empty)} cells have no gene above bin 0 among the model's genes in "
            f"adata.layers[{layer!r}] ({listed(empty)}); remove them first."
        )


def same_binning(
    record: Mapping[str, Any], expected: Mapping[str, Any], where: str, remedy: str = ""
) -> None:
    """Refuse tokens that were cut in another way than the model's training data."""
    params, wanted = record["params"], expected["params"]
    differing = [
        f"{name} is {params.get(name)!r}, the model has {wanted.get(name)!r}"
        for name in ("method", "n_bins", "target_sum")
        if params.get(name) != wanted.get(name)
    ]
    if not differing and not _same_edges(record["edges"], expected["edges"]):
        differing = ["its edges were learned from other cells"]
    if differing:
        raise ValueError(
            f"{where} was binned differently from the model's training data: "
            f"{'; '.join(differing)}. Bin the counts again like the model's: "
            f"{remedy or 'pp.bin_expression(adata, edges=model.binning)'}."
        )


def _same_edges(edges: Any, expected: Any) -> bool:
    if isinstance(expected, pd.DataFrame):
        if not isinstance(edges, pd.DataFrame):
            return False
        genes = expected.index.intersection(edges.index)
        edges, expected = edges.loc[genes], expected.loc[genes]
    edges, expected = np.asarray(edges, float), np.asarray(expected, float)
    return edges.shape == expected.shape and np.allclose(edges, expected)


def totals_of(genes: pd.Index) -> dict[str, Any]:
    """Record of the genes whose counts make a cell's total: their number, and a checksum of names.

    The order of the names does not matter.
    """
    names = "\n".join(sorted(str(gene) for gene in genes))
    digest = hashlib.sha256(names.encode()).hexdigest()[:16]
    return {"n_genes": len(genes), "genes_digest": digest}


def same_totals(
    params: Mapping[str, Any],
    names: pd.Index,
    expected: Mapping[str, Any],
    genes: pd.Index,
    hidden: Sequence[str],
    where: str,
    *,
    is_corpus: bool = False,
) -> None:
    """Refuse tokens cut from totals of other genes than the model's: the same cell has others then.

    `params` and `expected` are parameters of :func:`~scbert_cll.pp.bin_expression`. `names` are the
    genes of the cells, `genes` those of the model and `hidden` those it was not shown; they name
    the genes of a total where their checksum is the recorded one. Cells that lack some of these are
    right: an absent gene counts nothing.
    """
    if "genes_digest" not in params or "genes_digest" not in expected:
        who = where if "genes_digest" not in params else "the model"
        warnings.warn(
            f"{who} does not say of which genes the totals were that its tokens were cut from "
            "(an older version made it), so it is not known whether they fit. Make sure that both "
            "were binned with the same genes.",
            stacklevel=3,
        )
        return
    if params["genes_digest"] == expected["genes_digest"]:
        return
    whole = genes.append(pd.Index(list(hidden)).difference(genes))
    n_ours, n_theirs = int(params["n_genes"]), int(expected["n_genes"])
    are_ours_named = totals_of(names)["genes_digest"] == params["genes_digest"]
    are_theirs_named = totals_of(whole)["genes_digest"] == expected["genes_digest"]
    why = ""
    if are_ours_named and are_theirs_named:
        others = names[~names.isin(whole)]
        if not len(others):
            absent = [gene for gene in hidden if gene not in names]
            _warn_of_hidden(absent, len(whole), where)
            return
        why = f", {len(others)} of them not among the model's: {listed(others, 3)}"
    elif abs(n_ours - n_theirs) <= _ABOUT * n_theirs:
        warnings.warn(
            f"{where} was binned with {n_ours:,} genes and the model's training data with "
            f"{n_theirs:,} others, which are not all known by name. Their totals are taken to be "
            "alike.",
            stacklevel=3,
        )
        return
    raise ValueError(
        f"{where} was cut from totals of {n_ours:,} genes{why}; the model's training data from "
        f"totals of {n_theirs:,} genes. The same cell gets other tokens. "
        + _bin_anew(hidden, is_named=are_theirs_named, n=n_theirs, is_corpus=is_corpus)
    )


def _warn_of_hidden(absent: Sequence[str], n: int, where: str) -> None:
    """Genes that a model is not shown are in its totals, and easily forgotten in an alignment."""
    if len(absent) > _MANY_HIDDEN * n:
        warnings.warn(
            f"The model's totals hold {len(absent)} genes that it is not shown "
            f"({listed(absent, 3)}), and {where} was binned without them. If they were measured, "
            "align to these, too: pp.align_genes(adata, [*model.genes, "
            "*model.registry['setup_args']['exclude_genes']]).",
            stacklevel=4,
        )


def _bin_anew(hidden: Sequence[str], *, is_named: bool, n: int, is_corpus: bool) -> str:
    """How cells get the model's totals."""
    if not is_named:
        return (
            f"Bin the cells with all {n:,} genes or so that the model's were binned with, before "
            "genes are chosen."
        )
    others = ", ".join(map(repr, hidden))
    genes = f"[*model.genes, {others}]" if others else "list(model.genes)"
    if is_corpus:
        build = f"pp.build_corpus(…, vocab={genes}, edges=model.binning)"
        return f"Build a corpus of the model's genes: {build}."
    return (
        "Bring the counts to the model's genes and bin them again: adata = "
        f"pp.align_genes(adata, {genes}); pp.bin_expression(adata, edges=model.binning)."
    )
