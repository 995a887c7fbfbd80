"""tl.signature: the genes that go with a class within donors, each with its evidence."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _checks, _keys
from scbert_cll._signature.families import family
from scbert_cll._signature.procedure import Found, Limits, find

logger = logging.getLogger(__name__)


def signature(
    adata: AnnData,
    *,
    groupby: str = _keys.CD49D,
    donor_key: str = _keys.DONOR,
    layer: str | None = None,
    gene: str | None = "ITGA4",
    exclude_genes: Sequence[str] = (),
    min_cells: int = 20,
    min_donors: int = 4,
    min_detected: float = 0.02,
    alpha: float = 0.05,
    key_added: str = _keys.SIGNATURE,
    copy: bool = False,
) -> AnnData | None:
    """Find the genes whose expression goes with a class of cells within donors, or say why there are none.

    The donor is the unit: counts are summed per donor and class, and a gene is tested on the differences between the classes within donors, so
    that clone, sex, batch and depth of a donor cancel. A gene is selected if its moderated t passes Benjamini and Hochberg's procedure
    and a logistic regression of single cells, learned on other donors, gives it a coefficient of the same sign that stands out. There is no
    fixed number of genes: where nothing passes, the signature is empty and `uns` says why.

    Parameters
    ----------
    adata
        Cells × genes with raw counts and labels.
    groupby
        `obs` column of the classes, in order: the last one against the first. With more than two, the slope over all of them, and the
        classifier tells the outer two apart. Cells without a class take no part.
    donor_key
        `obs` column of donors.
    layer
        Layer with the raw counts; None means `adata.X`.
    gene
        The marker's own gene, which is marked in the table. None marks none.
    exclude_genes
        Genes to leave out from the start, e.g. ``["ITGA4"]``.
    min_cells
        Cells of every class that a donor needs to count.
    min_donors
        Donors needed. Below four a consistent difference is no evidence.
    min_detected
        Share of the labelled cells that must express a gene for it to be tested.
    alpha
        Expected share of false genes among those that pass the test (before the classifier's veto).
    key_added
        Name of what is written.
    copy
        Return a new object instead of writing to `adata`.

    Returns
    -------
    None, or with `copy` the new object, which then holds:

    ``adata.uns['signature']`` : dict
        ``genes``, DataFrame of all tested genes, the clearest first: ``gene``, ``sign``, ``selected``, ``log2_fc`` from the first class to the last with its
        standard ``error`` and 95 % limits ``low`` and ``high``, ``t``, ``p``, ``q``, ``coefficient`` (per standard deviation of log-expression), ``agrees`` (the
        classifier does), ``n_left_out`` (leaving out one donor at a time: without how many the gene is still found), ``abundance``
        (mean log2 sum), ``detected``, ``family`` (immunoglobulin, HLA, sex, mitochondrial, ribosomal, marker: genes that differ between donors or cells
        whatever is asked); ``differences``, DataFrame of genes × donors; ``samples`` and ``donors``, what there was of each; ``reason``, why nothing is
        selected, or an empty text; ``n_donors``, ``n_tested``, ``df`` and ``df_prior`` of the test, ``gate``, the least coefficient; ``params``.

    Raises
    ------
    KeyError
        A column, a layer or one of `exclude_genes` is missing.
    ValueError
        Fewer than two classes, values that are no raw counts, or a parameter out of range.

    Notes
    -----
    Size factors are medians of ratios (Anders and Huber 2010, doi:10.1186/gb-2010-11-10-r106). The test is limma's with an abundance trend (Smyth
    2004, doi:10.2202/1544-6115.1027; Law et al. 2014, doi:10.1186/gb-2014-15-2-r29) of log2(sum + 2). The guarantee of Benjamini and Hochberg is that of the test; what the
    classifier takes away is known from simulations only.

    Examples
    --------
    >>> import scbert_cll as sc_cll
    >>> adata = sc_cll.datasets.cll_toy(n_cells=400, n_genes=200)["rna"]
    >>> sc_cll.tl.signature(adata, groupby="cd49d_true")
    >>> adata.uns["signature"]["reason"]
    """
    adata = _checks.anndata(adata)
    limits = Limits(min_cells, min_donors, min_detected, alpha)
    _check(limits)
    labels = _checks.obs_column(adata, groupby)
    classes = _checks.classes(labels, groupby)
    codes = _checks.labels(adata, groupby, classes, np.arange(adata.n_obs))
    donors = _checks.obs_column(adata, donor_key, allow_missing=False).astype(str).to_numpy()
    _checks.known_genes(exclude_genes, adata)
    counts = _checks.counts(adata, layer)
    kept = np.flatnonzero(~adata.var_names.isin(list(exclude_genes)))
    found = find(counts[:, kept], adata.var_names[kept], codes, donors, classes, limits)
    params: dict[str, Any] = {"groupby": groupby, "donor_key": donor_key, "layer": layer or "X", "gene": gene or "none"}
    params |= {"exclude_genes": list(exclude_genes), "min_cells": min_cells, "min_donors": min_donors}
    params |= {"min_detected": min_detected, "alpha": alpha, "classes": classes}
    target = _checks.target(adata, copy=copy)
    target.uns[key_added] = _record(found, gene) | {"params": params}
    logger.info("%d of %d genes selected. %s", found.n_selected, found.facts["n_tested"], found.reason)
    return target if copy else None


def _check(limits: Limits) -> None:
    _checks.number_in(limits.min_cells, "min_cells", 2, np.inf, whole=True)
    _checks.number_in(limits.min_donors, "min_donors", 2, np.inf, whole=True)
    _checks.share(limits.min_detected, "min_detected")
    _checks.number_in(limits.alpha, "alpha", 1e-12, 0.5)


def _record(found: Found, gene: str | None) -> dict[str, Any]:
    """Tables and plain values that a file can hold."""
    genes = found.genes.assign(family=family(pd.Index(found.genes["gene"]), gene)) if len(found.genes) else found.genes
    tables = {"genes": genes.rename(index=str), "samples": found.samples, "donors": found.n_cells}
    return tables | {"differences": found.differences, "reason": found.reason} | found.facts
