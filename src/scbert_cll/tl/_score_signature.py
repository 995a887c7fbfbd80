"""tl.score_signature: how much of a signature a cell, or a bulk sample, shows."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scbert_cll import _checks, _docs, _keys, _record
from scbert_cll._checks.counts import are_whole, noted_counts, slot, stored
from scbert_cll._checks.words import choice, listed
from scbert_cll._counts import log_normalised
from scbert_cll._gene_names.resolver import places_of
from scbert_cll._signature import decoupler
from scbert_cll._signature.decoupler import Matrix
from scbert_cll._signature.record import selected_genes
from scbert_cll._signature.weights import Weights, check_matched, weights

Method = Literal["ulm", "waggr", "zscore", "aucell"]


@_docs.shared
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
    %(key_added)s
    %(copy)s

    Returns
    -------
    None, or with `copy` the new object, which then holds:

    ``adata.obs['signature_score']`` : float64
        The score.
    ``adata.uns['signature_score']`` : dict
        ``genes``, DataFrame: ``gene``, ``weight``, ``found`` (it is in `adata`), ``name`` (what
        `adata` calls it, by the rules of :meth:`scbert_cll.vocab.GeneVocab.resolve`); ``n_genes``,
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
    _checks.adata.new_key(key_added)
    choice(method, decoupler.METHODS, "method")
    _checks.words.share(min_matched, "min_matched")
    target = _checks.adata.target(adata, copy=copy)
    if signature is None:
        signature = selected_genes(adata, key, "score", "hand over a signature")
    weight = weights(signature)
    measured = np.ones(adata.n_vars, dtype=bool)
    if _keys.IN_QUERY in adata.var:
        measured = np.asarray(adata.var[_keys.IN_QUERY], dtype=bool)
    names = adata.var_names[measured]
    places = places_of(weight.index, names)
    present = places >= 0
    check_matched(weight, present, "adata", min_matched=min_matched)
    values, note = (_log_counts if normalize else _log_values)(adata, layer)
    values = values[:, np.flatnonzero(measured)]
    used = weight[present].set_axis(names[places[present]])
    if method in ("ulm", "zscore"):
        _check_flat(values, used, adata, method)
    scores = decoupler.scores(values, names, {"signature": used}, method)[:, 0]
    weight_found = float(used.abs().sum() / weight.abs().sum())
    missing = weight.index[~present]
    if len(missing):
        warnings.warn(
            f"{len(missing)} of the {len(weight)} genes of the signature ({1 - weight_found:.0%} "
            f"of its weight) are not in adata, and do not count: {listed(missing)}.",
            stacklevel=2,
        )
    genes = weight.rename_axis("gene").reset_index(name="weight")
    called = np.where(present, names[places], "")
    record = {"genes": genes.assign(found=present, name=called), "n_genes": len(weight)}
    record |= {"n_missing": len(missing), "weight_found": weight_found}
    record["params"] = params | note
    _record.write(target, obs={key_added: scores}, uns={key_added: record})
    return target if copy else None


def _log_counts(adata: AnnData, layer: str | None) -> tuple[Matrix, dict[str, int]]:
    """log(1 + counts per 10,000), and a note on the counts."""
    try:
        counts, note = noted_counts(adata, layer)
    except ValueError as error:
        hint = "If these are log-expression values, pass normalize=False."
        raise ValueError(f"{error} {hint}") from error
    _checks.adata.no_empty_cells(counts.sum(axis=1).A1, adata, layer or "X")
    return log_normalised(counts), note


def _log_values(adata: AnnData, layer: str | None) -> tuple[Matrix, dict[str, int]]:
    """Values that are on a log scale already, dense if they were; there is nothing to note."""
    where = slot(adata, layer)
    values = stored(adata, where)
    if n := int((~np.isfinite(values.data)).sum()):
        what = f"holds {n} values that are NaN or infinite; fill them"
        raise ValueError(f"{where.where} {what}.")
    if are_whole(values.data):
        what = "holds whole numbers only, so no log-expression"
        raise ValueError(f"{where.where} {what}; leave normalize=True for raw counts.")
    is_dense = isinstance(where.values, np.ndarray)
    return (values.toarray() if is_dense else values).astype(np.float64), {}


def _check_flat(values: Matrix, weight: pd.Series, adata: AnnData, method: str) -> None:
    """Refuse cells with one value for all genes, and a signature without other genes."""
    if values.shape[1] == len(weight) and weight.nunique() == 1:
        raise ValueError(
            f"method={method!r} holds a signature against other genes, and adata has none but the "
            f"{len(weight)} of the signature; score an object with all genes."
        )
    spread: Any = values.max(axis=1) - values.min(axis=1)
    spread = spread.toarray().ravel() if sparse.issparse(spread) else spread
    if len(constant := adata.obs_names[spread == 0]):
        raise ValueError(
            f"{len(constant)} cells have one value for all genes, so method={method!r} has no "
            f"score for them: {listed(constant)}; remove them."
        )
