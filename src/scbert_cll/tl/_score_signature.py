"""tl.score_signature: how much of a signature a cell, or a bulk sample, shows."""

from __future__ import annotations

import warnings
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scbert_cll import _checks, _keys, _record
from scbert_cll._checks.words import choice, listed
from scbert_cll._signature import checks as signature_checks
from scbert_cll._signature import decoupler
from scbert_cll._signature.scale import log_counts
from scbert_cll._signature.weights import Weights, weights

Method = Literal["ulm", "waggr", "zscore", "aucell"]

_SET: Final = "signature"


def score_signature(
    adata: AnnData,
    signature: Weights | None = None,
    *,
    method: Method = "ulm",
    layer: str | None = None,
    normalize: bool = True,
    min_matched: float = 0.5,
    key: str = _keys.SIGNATURE,
    key_added: str = _keys.SIGNATURE_SCORE,
    copy: bool = False,
) -> AnnData | None:
    """Score each cell, or each bulk sample, for a signature.

    Genes that go up count for, genes that go down against. A score depends on the cell alone, not
    on the other cells, but on which genes were measured: compare scores of cells that have the same
    genes. In the cells that a signature was found in, its score is better than elsewhere; what it
    is worth is seen in other donors.

    Parameters
    ----------
    adata
        Cells (or samples) × genes: all that were measured, since most methods hold the signature
        against the others.
    signature
        None takes the selected genes of :func:`~scbert_cll.tl.signature`, weighted with their
        `log2_fc`. Otherwise a DataFrame with ``gene`` and ``weight`` (or a table of
        `tl.signature`), a mapping from genes to weights, a list of genes, or the path of a ``.gmt``
        file with one set, or with two whose names end with ``_UP`` and ``_DN``.
    method
        Of decoupler. ``"ulm"``: t of the slope of expression over the weights, across genes.
        ``"waggr"``: mean weighted by the weights, which add up to 1 without their signs.
        ``"zscore"``: this mean times √(number of genes), in standard deviations of the cell's
        genes. ``"aucell"``: area under the recovery curve of the set of genes in the first 5 % of
        the cell's genes, up minus down; of the weights only the signs count.
    layer
        Layer with the values; None means `adata.X`, ``"raw"`` `adata.raw` (genes by name).
    normalize
        The values are raw counts, and log(1 + counts per 10,000) is scored. False: they are
        log-expression, as of bulk samples.
    min_matched
        Share of the signature's weight (without signs) that must lie on genes that are in `adata`.
        Genes that :func:`~scbert_cll.pp.align_genes` filled in with zeros are not.
    key
        Where in `uns` the signature is, if `signature` is None.
    key_added
        Name of what is written.
    copy
        Return a new object instead of writing to `adata`.

    Returns
    -------
    None, or with `copy` the new object, which then holds:

    ``adata.obs['signature_score']`` : float64
        The score.
    ``adata.uns['signature_score']`` : dict
        ``genes``, DataFrame: ``gene``, ``weight``, ``found`` (it is in `adata`); ``n_genes``,
        ``n_missing``, ``weight_found`` (share); ``params``.

    Raises
    ------
    ImportError
        decoupler is not installed.
    KeyError
        There is no signature or no such layer.
    TypeError
        `signature` is something else.
    ValueError
        The signature is empty or too little of it is in `adata`, the values are not what
        `normalize` says, or a cell has no counts.

    Notes
    -----
    decoupler: Badia-i-Mompel et al. 2022 (doi:10.1093/bioadv/vbac016). AUCell: Aibar et al. 2017
    (doi:10.1038/nmeth.4463), with ties in the order of decoupler's, which is the same for all
    cells. `adata.X` stays as it is.

    Examples
    --------
    >>> import scbert_cll as sc_cll
    >>> adata = sc_cll.datasets.cll_toy(n_cells=400, n_genes=200)["rna"]
    >>> sc_cll.tl.score_signature(adata, {"ITGA4": 1.0, "ITGB1": 0.5, "CXCR4": -1.0})
    >>> adata.uns["signature_score"]["n_missing"]
    0
    """
    params = _record.params(locals())
    _checks.adata.anndata(adata)
    _checks.slots.new_key(key_added)
    choice(method, decoupler.METHODS, "method")
    _checks.words.share(min_matched, "min_matched")
    target = _checks.adata.target(adata, copy=copy)
    weight = _own(adata, key) if signature is None else weights(signature)
    measured = np.asarray(
        adata.var.get(_keys.IN_QUERY, np.ones(adata.n_vars, dtype=bool)), dtype=bool
    )
    names = adata.var_names[measured]
    found = weight.index.isin(names)
    signature_checks.enough_weight(weight, found, "adata", min_matched=min_matched)
    values, note = _values(adata, layer, normalize)
    values = values[:, np.flatnonzero(measured)]
    if method in ("ulm", "zscore"):
        signature_checks.can_be_scored(values, weight[found], adata, method)
    scores = decoupler.scores(values, names, {_SET: weight[found]}, method)[:, 0]
    record = _told(weight, found)
    _record.write(
        target, obs={key_added: scores}, uns={key_added: record | {"params": params | note}}
    )
    return target if copy else None


def _own(adata: AnnData, key: str) -> pd.Series:
    """Weights of the signature that the object holds."""
    record = signature_checks.signature_record(adata, key)
    table = record["genes"]
    n_selected = int(table["selected"].sum()) if len(table) else 0
    signature_checks.not_empty(
        n_selected,
        str(record.get("reason", "")),
        "there is nothing to score; hand over a signature",
    )
    return weights(table)


def _values(
    adata: AnnData, layer: str | None, normalize: bool
) -> tuple[np.ndarray | sparse.csr_matrix, dict[str, int]]:
    """Log-expression, sparse if it was; and what is to be noted of the counts."""
    if not normalize:
        return signature_checks.log_values(adata, layer).astype(np.float64), {}
    counts, note = signature_checks.counts_to_normalize(adata, layer)
    _checks.adata.no_empty_cells(np.asarray(counts.sum(axis=1)).ravel(), adata, layer or "X")
    return log_counts(counts), note


def _told(weight: pd.Series, found: np.ndarray) -> dict[str, Any]:
    """What was scored and what was not; missing genes are told."""
    missing = weight.index[~found]
    share = float(weight.abs()[found].sum() / weight.abs().sum())
    if len(missing):
        warnings.warn(
            f"{len(missing)} of the {len(weight)} genes of the signature ({1 - share:.0%} of "
            f"its weight) are not in adata, "
            f"and do not count: {listed(missing)}.",
            stacklevel=3,
        )
    genes = pd.DataFrame(
        {"gene": weight.index.astype(str), "weight": weight.to_numpy(), "found": found}
    )
    return {
        "genes": genes.rename(index=str),
        "n_genes": len(weight),
        "n_missing": len(missing),
        "weight_found": share,
    }
