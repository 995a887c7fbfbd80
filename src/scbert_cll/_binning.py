"""How counts become tokens: what sets the edges, and the cutting, block by block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Final, Literal, get_args

import numpy as np
import pandas as pd
from scipy import sparse

from scbert_cll._checks.words import choice, listed, number_in

type Csr = sparse.csr_matrix
type Record = Mapping[str, Any]  # what pp.bin_expression leaves in `uns`
type Blocks = Iterator[tuple[slice, np.ndarray]]  # where stored, and values
type Edges = np.ndarray | pd.DataFrame  # (tokens,), or genes × tokens

Method = Literal["log2", "uniform", "quantile", "gene_quantile"]
# Stored values taken at a time: small enough that a block and its intermediates stay in the
# processor's cache.
_BLOCK: Final = 2**16
# up to so many, counting the edges below a value beats a binary search
_FEW_EDGES: Final = 40
_GENE_BLOCK: Final = 2**24  # stored values turned gene-wise at a time


@dataclass(frozen=True)
class Scheme:
    """How counts become tokens."""

    method: str = "log2"
    n_bins: int = 5
    target_sum: float = 1e4

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Scheme:
        """The scheme of a record."""
        n_bins, target_sum = int(params["n_bins"]), float(params["target_sum"])
        return cls(str(params["method"]), n_bins, target_sum)

    @property
    def is_learned(self) -> bool:
        """Whether its edges are learned from cells."""
        return self.method in ("uniform", "gene_quantile")

    def agreed(self, edges: Any) -> Scheme:
        """The scheme itself or that of `edges`, with which it must agree or be the default."""
        scheme = self
        if edges is not None:
            is_entry = isinstance(edges, Mapping) and "edges" in edges
            params = edges.get("params", {}) if is_entry else {}
            if not set(asdict(self)) <= set(params):
                raise ValueError(
                    "edges must be the whole entry that pp.bin_expression left in the other "
                    "object: adata.uns['binned']."
                )
            scheme = Scheme.of(params)
        default, of_edges = asdict(Scheme()), asdict(scheme)
        if other := [
            f"{name}={value!r} (edges: {of_edges[name]!r})"
            for name, value in asdict(self).items()
            if value not in (default[name], of_edges[name])
        ]:
            raise ValueError(
                f"The edges were made with other parameters than {', '.join(other)}; leave these "
                "out."
            )
        choice(scheme.method, get_args(Method), "method")
        number_in(scheme.n_bins, "n_bins", 1, 254, whole=True)
        of_floats = np.finfo(float)
        number_in(scheme.target_sum, "target_sum", of_floats.tiny, of_floats.max)
        return Scheme.of(of_edges)

    def lower_edges(
        self, edges: Record | None, genes: pd.Index, counts: Csr, totals: np.ndarray
    ) -> Edges:
        """Lower edges of the tokens 1 … n_bins: of `edges`, or learned from cells that fit them."""
        if edges is not None and self.is_learned:
            return _edges_of_genes(edges["edges"], genes)
        if self.method == "log2":
            return np.exp2(np.arange(1.0, self.n_bins + 1)) - 1
        if self.method == "quantile":
            return np.linspace(0, 1, self.n_bins)
        if self.method == "uniform":
            largest = max(x.max() for _, x in _levels(counts, totals, self.target_sum))
            v = np.log2(1 + largest) * np.arange(self.n_bins) / self.n_bins
            return np.asarray(np.exp2(v) - 1)
        columns = [str(token) for token in range(1, self.n_bins + 1)]
        quantiles = _gene_quantiles(counts, totals, self)
        return pd.DataFrame(quantiles, index=genes, columns=columns)

    def tokens(self, counts: Csr, totals: np.ndarray, lower: Edges) -> Csr:
        """Cut the stored values, block by block, straight into their tokens: CSR of uint8."""
        tokens = np.empty(counts.nnz, dtype=np.uint8)
        if self.method == "quantile":
            for start, stop in pairwise(counts.indptr):
                tokens[start:stop] = _rank_tokens(counts.data[start:stop], self.n_bins)
        else:
            edges = np.ascontiguousarray(np.transpose(lower))
            for stored, x in _levels(counts, totals, self.target_sum):
                if self.method == "gene_quantile":
                    tokens[stored] = _n_below(x, edges, counts.indices[stored])
                else:
                    tokens[stored] = _n_reached(x, edges[edges <= self.target_sum])
        # The index arrays are copies: X and the layer must not change each other when scanpy sorts
        # or prunes in place.
        arrays = (tokens, counts.indices.copy(), counts.indptr.copy())
        binned = sparse.csr_matrix(arrays, shape=counts.shape)
        if not tokens.all():
            binned.eliminate_zeros()
        return binned


def cut(counts: Csr, record: Record) -> Csr:
    """Tokens of counts without stored zeros, by a record of pp.bin_expression.

    A cell without counts has none.
    """
    scheme = Scheme.of(record["params"])
    return scheme.tokens(counts, totals_of_cells(counts), record["edges"])


def totals_of_cells(counts: Csr) -> np.ndarray:
    """Counts of each cell; exact, also where float32 would not be."""
    totals = np.zeros(counts.shape[0])
    for rows, stored in _row_blocks(counts.indptr):
        starts = counts.indptr[rows.start : rows.stop + 1]
        filled = np.flatnonzero(np.diff(starts))
        if len(filled):
            values = counts.data[stored].astype(np.float64)
            sums = np.add.reduceat(values, starts[filled] - stored.start)
            totals[rows.start + filled] = sums
    return totals


def _edges_of_genes(edges: Any, genes: pd.Index) -> Edges:
    """Edges as they are or, where every gene has its own, in the order of `genes`."""
    if not isinstance(edges, pd.DataFrame):
        return np.asarray(edges, dtype=np.float64)
    ours, theirs = genes.difference(edges.index), edges.index.difference(genes)
    if len(ours) or len(theirs):
        raise ValueError(
            f"The edges belong to other genes: without edges {listed(ours)}; edges without a "
            f"gene {listed(theirs)}. Align first: pp.align_genes(adata, vocab) with the genes "
            "the edges were made on."
        )
    return edges.loc[genes]


def _row_blocks(indptr: np.ndarray) -> Iterator[tuple[slice, slice]]:
    """Whole cells at a time, and where their values are stored."""
    borders = np.searchsorted(indptr, np.arange(0, indptr[-1], _BLOCK))
    borders = np.unique([0, *borders, len(indptr) - 1])
    for first, last in pairwise(borders.tolist()):
        yield slice(first, last), slice(int(indptr[first]), int(indptr[last]))


def _levels(counts: Csr, totals: np.ndarray, target_sum: float) -> Blocks:
    """Blocks of x = target_sum · c / N, in an order of operations that keeps a whole x exact."""
    for rows, stored in _row_blocks(counts.indptr):
        n_stored = np.diff(counts.indptr[rows.start : rows.stop + 1])
        x = counts.data[stored].astype(np.float64)
        x *= target_sum
        x /= np.repeat(totals[rows], n_stored)
        yield stored, x


def _n_reached(x: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """How many of the edges are not above each value."""
    if len(edges) > _FEW_EDGES:
        return np.searchsorted(edges, x, side="right")
    reached = np.zeros(len(x), dtype=np.uint8)
    for edge in edges:
        reached += (x >= edge).view(np.uint8)
    return reached


def _n_below(x: np.ndarray, edges: np.ndarray, genes: np.ndarray) -> np.ndarray:
    """How many of its gene's edges (tokens × genes) are below each value."""
    below = np.zeros(len(x), dtype=np.uint8)
    for edge in edges:
        below += (x > edge[genes]).view(np.uint8)
    return below


def _rank_tokens(values: np.ndarray, n_bins: int) -> np.ndarray | int:
    """Quantile digits (scGPT's) of one cell's expressed genes, from ranks: without rounding."""
    if len(values) == 1:
        return n_bins
    n_not_above = np.searchsorted(np.sort(values), values, side="right") - 1
    return 1 + n_not_above * (n_bins - 1) // (len(values) - 1)


def _gene_quantiles(counts: Csr, totals: np.ndarray, scheme: Scheme) -> np.ndarray:
    """Genes × tokens: 0, then the observed values at 1/n_bins … of each gene's expressed values."""
    n_bins = scheme.n_bins
    edges = np.full((counts.shape[1], n_bins), np.inf)
    step = max(1, int(counts.shape[1] * _GENE_BLOCK / max(counts.nnz, 1)))
    for first in range(0, counts.shape[1], step):
        columns = counts[:, first : first + step].tocsc()
        x = columns.data.astype(np.float64)
        x = x * scheme.target_sum / totals[columns.indices]
        for gene, (start, stop) in enumerate(pairwise(columns.indptr), first):
            if stop > start:
                at = -(-np.arange(1, n_bins) * int(stop - start) // n_bins) - 1
                edges[gene] = np.concatenate([[0], np.sort(x[start:stop])[at]])
    return edges
