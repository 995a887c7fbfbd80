"""What a classifier would say if genes were off, or at another level: in-silico knock-out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from anndata import AnnData
from scipy import sparse

from scbert_cll import _checks
from scbert_cll._checks.words import number_in
from scbert_cll._process import Bar
from scbert_cll.model._inference import token_rows
from scbert_cll.model._protocols import Classifier
from scbert_cll.model.explain.groups import target_of
from scbert_cll.model.explain.occlusion import without
from scbert_cll.model.linear import ensemble
from scbert_cll.model.training.batches import TokenRows

_LEAST = 1e-7  # probabilities of float32 have no logarithm closer to 0 or 1


class Change(NamedTuple):
    """Cells (rows) that a perturbation changes.

    Change of the log-odds of the class, and how far their embedding moves.
    """

    name: str
    rows: np.ndarray
    log_odds: np.ndarray
    shift: np.ndarray


def perturb_genes(
    model: Classifier,
    genes: Mapping[str, Sequence[str]],
    adata: AnnData | None = None,
    *,
    level: int = 0,
    target: str | None = None,
    batch_size: int | None = None,
) -> Iterator[Change]:
    """Predict cells with the tokens of some genes set to a level, one set of genes after the other.

    Only cells in which a token changes are computed again. A cell that would have no token left
    is left out.

    Parameters
    ----------
    genes
        Sets of genes by name; the genes of a set are changed together.
    adata, batch_size
        As in :meth:`get_latent_representation`.
    level
        Token to set: 0 is not expressed, up to the number of bins.
    target
        Class whose log-odds are meant; None: the last one.

    Yields
    ------
    Named tuples of ``name`` of the set; ``rows`` of the cells that change; ``log_odds``,
    float64, their log-odds of the class with the change less those without; ``shift``, float32,
    the Euclidean distance that their embedding moves.

    Raises
    ------
    KeyError
        The model does not know one of the genes.
    ValueError
        Unknown class, or a level that is no token.
    """
    target = target_of(model, target)
    number_in(level, "level", 0, model.config.n_bins, whole=True)
    places = {
        name: _checks.genes.places_in_model(list(members), model.genes)
        for name, members in genes.items()
    }
    whole, code = token_rows(model, adata), model.classes.index(target)
    before, latent = _odds(model, whole, code, batch_size)
    for name, columns in Bar(places.items(), desc="perturbation", unit="set", disable=None):
        csr = _set(whole.csr, columns, level)
        rows = np.flatnonzero(np.diff((csr != whole.csr).indptr) > 0)
        if model.config.n_zeros == 0:
            rows = rows[np.diff(csr.indptr)[rows] > 0]
        if not len(rows):
            yield Change(name, rows, np.empty(0), np.empty(0, np.float32))
            continue
        after, moved = _odds(model, TokenRows(csr[rows], model.config), code, batch_size)
        yield Change(name, rows, after - before[rows], np.linalg.norm(moved - latent[rows], axis=1))


def _odds(
    model: Classifier, data: TokenRows, code: int, batch_size: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds of a class as it is predicted (cells,), and embeddings (cells, n_hidden)."""
    logits, latent = ensemble.logits_and_latent(model, data, batch_size)
    linear = None if model.linear_ is None else model.linear_.logits(data.csr)
    joined = ensemble.joined_proba(model, logits.astype(np.float64), linear)
    proba = np.clip(joined[:, code], _LEAST, 1 - _LEAST)
    return np.log(proba) - np.log1p(-proba), latent


def _set(csr: sparse.csr_matrix, columns: np.ndarray, level: int) -> sparse.csr_matrix:
    """Some columns at one level."""
    other = without(csr, np.isin(csr.indices, columns))
    if level:
        n = csr.shape[0]
        rows, cols = np.repeat(np.arange(n), len(columns)), np.tile(columns, n)
        other = other + sparse.csr_matrix(
            (np.full(len(rows), level, csr.dtype), (rows, cols)), shape=csr.shape
        )
        other = sparse.csr_matrix(other.astype(csr.dtype))
        other.sort_indices()
    return other
