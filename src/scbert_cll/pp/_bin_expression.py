from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
from anndata import AnnData
from scipy import sparse

from scbert_cll import _binning, _checks, _keys, _record
from scbert_cll._binning import Method, Scheme


def bin_expression(
    adata: AnnData,
    *,
    layer: str | None = None,
    method: Method = "log2",
    n_bins: int = 5,
    target_sum: float = 1e4,
    fit_on: str | np.ndarray | None = None,
    edges: Mapping[str, object] | None = None,
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
    _checks.adata.new_key(key_added)
    scheme = Scheme(method, n_bins, target_sum).agreed(edges)
    if edges is not None and fit_on is not None:
        raise ValueError(
            "edges= are ready-made, there is nothing to fit: give either edges or fit_on."
        )
    if key_added == layer:
        raise ValueError(
            f"key_added={key_added!r} is the layer with the counts and would replace it; take "
            "another name."
        )
    counts, totals, note = _counted(adata, layer, scheme.n_bins)
    cells = _checks.adata.cells(adata, fit_on, "fit_on")
    is_whole = cells.all() or not scheme.is_learned
    fitted = (counts, totals) if is_whole else (counts[cells], totals[cells])
    lower = scheme.lower_edges(edges, adata.var_names, *fitted)
    tokens = scheme.tokens(counts, totals, lower)

    adata = _checks.adata.target(adata, copy=copy)
    params = given | asdict(scheme) | note | _checks.counts.totals_of(adata.var_names)
    params["edges"] = "none" if edges is None else "given"
    if edges is None and scheme.is_learned:
        params["n_fit_cells"] = int(cells.sum())
    record = {"edges": lower, "params": params}
    _record.write(adata, layers={key_added: tokens}, uns={key_added: record})
    return adata if copy else None


def _counted(
    adata: AnnData, layer: str | None, n_bins: int
) -> tuple[sparse.csr_matrix, np.ndarray, dict[str, int]]:
    """The counts, checked and without stored zeros, every cell's total, and what is to be noted."""
    counts, note = _checks.counts.noted_counts(adata, layer)
    where, largest = _checks.counts.slot_name(layer), counts.data.max(initial=0)
    n_at_top = int((counts.max(axis=1) == largest).sum()) if largest == n_bins else 0
    looks_binned = _checks.counts.look_binned(largest, n_at_top, counts.shape, n_bins)
    if looks_binned or _checks.counts.is_binned(adata, layer):
        raise ValueError(
            f"{where} looks binned already (its largest value is {largest:g}, n_bins={n_bins}); "
            "bin raw counts, once."
        )
    totals = _binning.totals_of_cells(counts)
    _checks.adata.no_empty_cells(totals, adata, where)
    if counts.data.min() == 0:
        counts = counts.copy()
        counts.eliminate_zeros()
    return counts, totals, note
