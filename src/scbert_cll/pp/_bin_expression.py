from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scbert_cll import _checks, _keys, _record
from scbert_cll._checks.words import choice, listed, number_in
from scbert_cll._keys import slot_name

type Method = Literal["log2", "uniform", "quantile", "gene_quantile"]

_METHODS = ("log2", "uniform", "quantile", "gene_quantile")
# Stored values taken at a time: small enough that a block and its intermediates stay in the
# processor's cache.
_BLOCK = 2**16
_FEW_EDGES = 40  # up to so many, counting the edges below a value beats a binary search
_GENE_BLOCK = 2**24  # stored values turned gene-wise at a time


def bin_expression(
    adata: AnnData,
    *,
    layer: str | None = None,
    method: Method = "log2",
    n_bins: int = 5,
    target_sum: float = 1e4,
    fit_on: str | np.ndarray | None = None,
    edges: Mapping[str, Any] | None = None,
    key_added: str = _keys.BINNED,
    copy: bool = False,
) -> AnnData | None:
    """Turn raw counts into the small whole numbers (tokens) a language model reads.

    A gene's level in a cell becomes token 1 … `n_bins`; what is not expressed is token 0. With
    counts c and a cell's total N, let x = `target_sum` · c / N and v = log2(1 + x):

    ``log2``
        min(⌊v⌋, `n_bins`), scBERT's tokens [1]_. Nothing is learned from the data. Mind the depth
        of a cell: a gene with v < 1 gets token 0 although it is expressed (one count where N >
        `target_sum`), and token 1 cannot occur where N ≤ `target_sum` / 3.
    ``uniform``
        Ranges of equal width over [0, largest v of the cells in `fit_on`], closed at the upper end;
        expressed genes get 1 … `n_bins`, values above the range `n_bins`. One outlier moves all
        edges.
    ``quantile``
        Per cell, over its expressed genes: 1 + ⌊R · (`n_bins` − 1) / (n − 1)⌋ where n is the number
        of expressed genes and R how many of the others are not above this one; `n_bins` for a
        single gene. These are scGPT's quantile edges [2]_ without its noise: equal counts get the
        same token, the highest they share, where scGPT spreads them at random. Depends on the order
        of the counts only.
    ``gene_quantile``
        Per gene, over its expressed v in the cells of `fit_on`: token t is (Q((t − 1)/n_bins),
        Q(t/n_bins)], where Q are observed values (inverted distribution function), so that a gene's
        tokens are about equally common. Values below the range get 1, above it `n_bins`; a constant
        gene has token 1 up to its value. A gene no fitting cell expresses gets token 0 everywhere:
        a model trained on those cells knows no other.

    Parameters
    ----------
    adata
        Cells × genes with raw counts, genes aligned to the model's vocabulary first
        (:func:`~scbert_cll.pp.align_genes`).
    layer
        Where the raw counts are; ``X`` if not given. ``"raw"`` takes `adata.raw` (genes by name),
        if no layer is called so.
    method
        The definition, see above.
    n_bins
        Number of tokens above 0, 1 to 254.
    target_sum
        Counts a cell is scaled to. Without effect for ``quantile``.
    fit_on
        Cells whose values set the edges of ``uniform`` and ``gene_quantile``: a boolean mask, a
        boolean column of ``obs``, or a split column, of which the ``train`` cells are taken. All
        cells if not given. Learning edges from cells a model is tested on leaks.
    edges
        ``uns["binned"]`` of another object: cut at its edges, with its method, `n_bins` and
        `target_sum`. For data that a trained model is to read.
    key_added
        Name of the layer and of the entry in ``uns``.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy if `copy` is set, with

    ``adata.layers['binned']`` : uint8
        Tokens, CSR, zeros not stored.
    ``adata.uns['binned']`` : dict
        ``edges``: lower edges of the tokens 1 … `n_bins` on the scale of x, where cutting is exact
        (log2(1 + edges) for v); for ``gene_quantile`` a table genes × tokens (the edge itself
        belongs to the token below; inf for a gene not seen), for ``quantile`` the levels within a
        cell. ``params``: ``method``, ``n_bins``, ``target_sum``, ``layer``; ``n_genes`` and
        ``genes_digest``, how many genes a cell's total is of and a checksum of their names, by
        which a model knows tokens that were cut from other totals; ``n_fit_cells`` where edges were
        learned; ``n_rounded`` where values differed from whole numbers by float32 round-off.

    Raises
    ------
    ValueError
        If the matrix holds anything but raw counts (negative, NaN, infinite, logarithms, fractions,
        tokens), or rows that are no genes (antibodies and others by ``var["feature_types"]``), a
        cell has no counts, names repeat, `adata` is backed or a view (with ``copy=False``), or a
        parameter is out of range.
    KeyError
        If the layer, the column or a gene of `edges` does not exist.

    References
    ----------
    .. [1] Yang et al. (2022), scBERT as a large-scale pretrained deep language model for cell type
       annotation of single-cell RNA-seq data, Nature Machine Intelligence 4:852,
       doi:10.1038/s42256-022-00534-z.
    .. [2] Cui et al. (2024), scGPT: toward building a foundation model for single-cell multi-omics
       using generative AI, Nature Methods 21:1470, doi:10.1038/s41592-024-02201-0.

    Examples
    --------
    >>> import numpy as np
    >>> adata = AnnData(np.array([[1, 3, 0, 996], [0, 1, 9, 9990]]))
    >>> bin_expression(adata)
    >>> adata.layers["binned"].toarray()
    array([[3, 4, 0, 5],
           [0, 1, 3, 5]], dtype=uint8)
    """
    given = _record.params(locals())
    adata = _checks.adata.anndata(adata)
    _checks.slots.new_key(key_added)
    scheme = _scheme(Scheme(method, n_bins, target_sum), edges, fit_on)
    counts, totals, note = _counted(adata, layer, key_added, scheme.n_bins)
    cells = _checks.adata.cells(adata, fit_on, "fit_on")
    if edges is not None and scheme.is_learned:
        lower = _edges_of_genes(edges["edges"], adata.var_names)
    else:
        lower = _learned(scheme, counts, totals, cells, adata.var_names)
    tokens = _tokens(scheme, counts, totals, lower)

    adata = _checks.adata.target(adata, copy=copy)
    params = given | asdict(scheme) | note | _checks.tokens.totals_of(adata.var_names)
    params["edges"] = "none" if edges is None else "given"
    if edges is None and scheme.is_learned:
        params["n_fit_cells"] = int(cells.sum())
    record = {"edges": lower, "params": params}
    _record.write(adata, layers={key_added: tokens}, uns={key_added: record})
    return adata if copy else None


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


def cuts(genes: pd.Index, scheme: Scheme, edges: Mapping[str, Any] | None) -> dict[str, Any]:
    """Record of `bin_expression` for cells that are not here yet: nothing is learned from them."""
    scheme = _scheme(scheme, edges)
    if edges is None and scheme.method in ("uniform", "gene_quantile"):
        raise ValueError(
            f"method={scheme.method!r} learns its edges from cells, and a corpus is read block by "
            f"block: bin a sample of training cells with pp.bin_expression(sample, "
            f"method={scheme.method!r}) and pass edges=sample.uns['binned']. log2 and quantile "
            f"need none."
        )
    if edges is not None and scheme.is_learned:
        lower = _edges_of_genes(edges["edges"], genes)
    else:
        no_cells = sparse.csr_matrix((0, len(genes)))
        lower = _learned(scheme, no_cells, np.zeros(0), np.ones(0, dtype=bool), genes)
    return {"edges": lower, "params": asdict(scheme) | _checks.tokens.totals_of(genes)}


def cut(counts: sparse.csr_matrix, record: Mapping[str, Any]) -> sparse.csr_matrix:
    """Tokens of counts without stored zeros, by such a record; a cell without counts has none."""
    scheme = Scheme.of(record["params"])
    return _tokens(scheme, counts, _totals(counts), record["edges"])


def _scheme(requested: Scheme, edges: Any, fit_on: object = None) -> Scheme:
    """The scheme that was asked for, or that of `edges`, which must agree or be the default."""
    made = requested if edges is None else _scheme_of(edges)
    if edges is not None and fit_on is not None:
        raise ValueError(
            "edges= are ready-made, there is nothing to fit: give either edges or fit_on."
        )
    default, of_edges = asdict(Scheme()), asdict(made)
    if other := [
        f"{name}={value!r} (edges: {of_edges[name]!r})"
        for name, value in asdict(requested).items()
        if value not in (default[name], of_edges[name])
    ]:
        raise ValueError(
            f"The edges were made with other parameters than {', '.join(other)}; leave these out."
        )
    choice(made.method, _METHODS, "method")
    number_in(made.n_bins, "n_bins", 1, 254, whole=True)
    number_in(made.target_sum, "target_sum", np.finfo(float).tiny, np.finfo(float).max)
    return Scheme.of(asdict(made))


def _scheme_of(edges: Any) -> Scheme:
    is_entry = isinstance(edges, Mapping) and "edges" in edges
    params = edges.get("params", {}) if is_entry else {}
    if not set(asdict(Scheme())) <= set(params):
        raise ValueError(
            "edges must be the whole entry that pp.bin_expression left in the other object: "
            "adata.uns['binned']."
        )
    return Scheme.of(params)


def _edges_of_genes(edges: Any, genes: pd.Index) -> Any:
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


def _counted(
    adata: AnnData, layer: str | None, key_added: str, n_bins: int
) -> tuple[sparse.csr_matrix, np.ndarray, dict[str, int]]:
    """The counts, checked and without stored zeros, every cell's total, and what is to be noted."""
    if key_added == layer:
        raise ValueError(
            f"key_added={key_added!r} is the layer with the counts and would replace it; take "
            f"another name."
        )
    counts, note = _checks.counts.noted_counts(adata, layer)
    where, largest = slot_name(layer), counts.data.max(initial=0)
    n_at_top = int((counts.max(axis=1) == largest).sum()) if largest == n_bins else 0
    looks_binned = _checks.tokens.look_binned(largest, n_at_top, counts.shape, n_bins)
    if looks_binned or _checks.counts.is_binned(adata, layer):
        raise ValueError(
            f"{where} looks binned already (its largest value is {largest:g}, n_bins={n_bins}); "
            "bin raw counts, once."
        )
    totals = _totals(counts)
    _checks.adata.no_empty_cells(totals, adata, where)
    if counts.data.min() == 0:
        counts = counts.copy()
        counts.eliminate_zeros()
    return counts, totals, note


def _learned(
    scheme: Scheme,
    counts: sparse.csr_matrix,
    totals: np.ndarray,
    cells: np.ndarray,
    genes: pd.Index,
) -> np.ndarray | pd.DataFrame:
    """Lower edges of the tokens 1 … n_bins, from the fitting cells if there is much to learn."""
    n_bins = scheme.n_bins
    if scheme.method == "log2":
        return np.exp2(np.arange(1.0, n_bins + 1)) - 1
    if scheme.method == "quantile":
        return np.linspace(0, 1, n_bins)
    if not cells.all():
        counts, totals = counts[cells], totals[cells]
    if scheme.method == "uniform":
        largest = max(x.max() for _, x in _levels(counts, totals, scheme.target_sum))
        v = np.log2(1 + largest) * np.arange(n_bins) / n_bins
        return np.asarray(np.exp2(v) - 1)
    columns = [str(token) for token in range(1, n_bins + 1)]
    edges = _gene_quantiles(counts, totals, scheme)
    return pd.DataFrame(edges, index=genes, columns=columns)


def _tokens(
    scheme: Scheme,
    counts: sparse.csr_matrix,
    totals: np.ndarray,
    lower: np.ndarray | pd.DataFrame,
) -> sparse.csr_matrix:
    """Cut the stored values, block by block, straight into their tokens."""
    tokens = np.empty(counts.nnz, dtype=np.uint8)
    if scheme.method == "quantile":
        for start, stop in pairwise(counts.indptr):
            tokens[start:stop] = _rank_tokens(counts.data[start:stop], scheme.n_bins)
    else:
        edges = np.ascontiguousarray(np.transpose(lower))
        for stored, x in _levels(counts, totals, scheme.target_sum):
            if scheme.method == "gene_quantile":
                tokens[stored] = _n_below(x, edges, counts.indices[stored])
            else:
                tokens[stored] = _n_reached(x, edges[edges <= scheme.target_sum])
    # The index arrays are copies: X and the layer must not change each other when scanpy sorts or
    # prunes in place.
    arrays = (tokens, counts.indices.copy(), counts.indptr.copy())
    binned = sparse.csr_matrix(arrays, shape=counts.shape)
    if not tokens.all():
        binned.eliminate_zeros()
    return binned


def _row_blocks(indptr: np.ndarray) -> Iterator[tuple[slice, slice]]:
    """Whole cells at a time, and where their values are stored."""
    borders = np.searchsorted(indptr, np.arange(0, indptr[-1], _BLOCK))
    borders = np.unique([0, *borders, len(indptr) - 1])
    for first, last in pairwise(borders.tolist()):
        yield slice(first, last), slice(int(indptr[first]), int(indptr[last]))


def _totals(counts: sparse.csr_matrix) -> np.ndarray:
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


def _levels(
    counts: sparse.csr_matrix, totals: np.ndarray, target_sum: float
) -> Iterator[tuple[slice, np.ndarray]]:
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


def _gene_quantiles(counts: sparse.csr_matrix, totals: np.ndarray, scheme: Scheme) -> np.ndarray:
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
