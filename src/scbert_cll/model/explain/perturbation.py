"""What a classifier would say of cells without some genes, or with them at another level."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from lightning.pytorch.utilities import rank_zero_info
from scipy import sparse
from torch import Tensor

from scbert_cll import _checks
from scbert_cll._checks.words import number_in
from scbert_cll._gene_names.resolver import in_data
from scbert_cll._process import Bar
from scbert_cll.model import _inference
from scbert_cll.model._inference import cells_of, collect, token_rows
from scbert_cll.model._protocols import Classifier
from scbert_cll.model.explain.groups import code_of, coded, evenly_spaced
from scbert_cll.model.training.batches import TokenRows
from scbert_cll.nn import attribution

_AT_A_TIME: Final = 2**22  # tokens of changed cells that are held at once
_BLOCK: Final = 1024  # cells whose changes are listed at once
_MANY: Final = 20_000  # changed cells, from which on their number is told
_LEAST: Final = 1e-7  # probabilities of float32 have no logarithm closer to 0 or 1


def get_set_effects(
    model: Classifier,
    sets: Mapping[str, Sequence[str]],
    adata: AnnData | None = None,
    *,
    keep: bool = False,
    target: str | None = None,
    batch_size: int | None = None,
) -> pd.DataFrame:
    """Change of a class's logit when a cell does not express the genes of a set.

    The logit is taken against the mean of those of the other classes.

    The logit is the network's alone, without the linear part. A gene that is not expressed has
    no token with ``tokens="expressed"``, and token 0 otherwise, which such a network was
    trained on. Memory grows with cells × sets, by one number each.

    Parameters
    ----------
    sets
        Sets of genes by name; the genes of a set are dropped together.
    adata, batch_size
        As in :meth:`get_latent_representation`.
    keep
        Drop all genes but those of the set.
    target
        The class; None: the last one.

    Returns
    -------
    Cells × sets, float64: logit of the changed cell less that of the whole cell, 0 where
    nothing changes; missing where a cell would have no token left.

    Raises
    ------
    KeyError
        The model does not know one of the genes.
    ValueError
        Unknown class.
    """
    logit = _Logit(model, code_of(model, target), batch_size)
    members = sparse.lil_matrix((len(sets), len(model.genes)), dtype=bool)
    for row, genes in enumerate(sets.values()):
        members[row, _checks.genes.places_in_model(in_data(genes, model.genes), model.genes)] = True
    cells = cells_of(model, adata)
    effects = np.zeros((cells.n_obs, len(sets)))
    of_pairs = _set_effects(logit, token_rows(model, cells), members.tocsr(), keep=keep)
    for rows, of, effect in of_pairs:
        effects[rows, of] = effect
    return pd.DataFrame(effects, index=cells.obs_names, columns=list(map(str, sets)))


def get_gene_occlusion(
    model: Classifier,
    groups: pd.Series,
    adata: AnnData | None = None,
    *,
    genes: Sequence[str] | None = None,
    n_cells: int | None = None,
    target: str | None = None,
    batch_size: int | None = None,
) -> pd.DataFrame:
    """Mean loss of a class's logit when a gene is not expressed, gene by gene and group by group.

    Every gene a cell expresses is one more cell to predict, so that all genes of a cell with
    1,500 cost as much as predicting 1,500 cells. Where these are more than 20,000, their number
    is logged.

    Parameters
    ----------
    groups
        Group of each cell, in the order of the cells; cells without one are left out.
    adata, target, batch_size
        As in :meth:`get_set_effects`.
    genes
        Genes to leave out; None: all.
    n_cells
        Cells of each group to look at, evenly spaced; None: all.

    Returns
    -------
    Genes × groups, float64: logit of the whole cell less that of the cell without the gene,
    positive if the gene speaks for the class. Zero in a cell that does not express the gene, or
    nothing else.

    Raises
    ------
    KeyError
        The model does not know one of the genes.
    ValueError
        Unknown class, or not one group per cell.
    """
    logit = _Logit(model, code_of(model, target), batch_size)
    places = np.arange(len(model.genes))
    if genes is not None:
        genes = in_data([genes] if isinstance(genes, str) else genes, model.genes)
        places = _checks.genes.places_in_model(genes, model.genes)
    cells = cells_of(model, adata)
    codes, names = coded(groups, cells)
    rows = evenly_spaced(codes, n_cells)
    data, codes = token_rows(model, cells[rows]), codes[rows]
    if (n_changed := int(np.isin(data.csr.indices, places).sum())) > _MANY:
        rank_zero_info(
            f"Occlusion predicts {n_changed:,} changed cells; with n_cells= or genes= "
            f"there are fewer of them."
        )
    members = sparse.eye(len(model.genes), dtype=bool).tocsr()[places]
    total = np.zeros((len(names), len(places)))
    for changed, of, effect in _set_effects(logit, data, members):
        np.subtract.at(total, (codes[changed], of), np.nan_to_num(effect))
    mean = total / np.bincount(codes, minlength=len(names))[:, None]
    return pd.DataFrame(mean.T, index=model.genes[places], columns=names)


class _Logit(NamedTuple):
    """The logit of a class: the network's alone, or of what is predicted."""

    model: Classifier
    code: int
    batch_size: int | None

    def contrast(self, csr: sparse.csr_matrix) -> np.ndarray:
        """The network's against the mean of the others, from the tokens: float64 (cells,)."""
        model, n = self.model, len(self.model.classes)

        def classify(**cells: Tensor) -> list[Tensor]:
            return [model.module(**cells).float()]

        rows = TokenRows(csr, model.config)
        (logits,) = collect(model, rows, self.batch_size, [n], classify)
        contrast = attribution.contrast_of(n, self.code).numpy().astype(np.float64)
        return np.asarray(logits.astype(np.float64) @ contrast)

    def odds(self, data: TokenRows) -> tuple[np.ndarray, np.ndarray]:
        """Log-odds of the class as it is predicted (cells,), and embeddings (cells, n_hidden)."""
        model = self.model
        logits, latent = _inference.logits_and_latent(model, data, self.batch_size, None)
        linear = None if model.linear_ is None else model.linear_.logits(data.csr)
        joined = _inference.joined_proba(model, logits.astype(np.float64), linear)
        proba = np.clip(joined[:, self.code], _LEAST, 1 - _LEAST)
        return np.log(proba) - np.log1p(-proba), latent


def _set_effects(
    logit: _Logit, data: TokenRows, members: sparse.csr_matrix, *, keep: bool = False
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Cells, sets (rows of `members`) and effects, of all pairs in which a token changes."""
    whole = logit.contrast(data.csr)
    for rows, of in _changing(data.csr, members, keep=keep):
        of_tokens = np.repeat(of, data.lengths()[rows]), data.csr[rows].indices
        csr = _without(data.csr[rows], np.asarray(members[of_tokens]).ravel() != keep)
        can = (np.diff(csr.indptr) > 0) | (logit.model.config.n_zeros > 0)
        effect = np.full(len(rows), np.nan)
        if can.any():
            effect[can] = logit.contrast(csr[can]) - whole[rows[can]]
        yield rows, of, effect


def _without(csr: sparse.csr_matrix, gone: np.ndarray) -> sparse.csr_matrix:
    """A copy in which the entries `gone` (one truth value each) are zero."""
    other = csr.copy()
    other.data[gone] = 0
    other.eliminate_zeros()
    return other


def _changing(
    csr: sparse.csr_matrix, members: sparse.csr_matrix, *, keep: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of cell and set in which a token changes, as many at a time as have few tokens."""
    lengths, sets = np.diff(csr.indptr).astype(np.int64), members.T.astype(np.int32)
    for start in range(0, csr.shape[0], _BLOCK):
        block = slice(start, start + _BLOCK)
        inside = sparse.csr_matrix(csr[block].astype(bool).astype(np.int32) @ sets)
        changes = inside.toarray() < lengths[block, None] if keep else inside
        rows, of = changes.nonzero()
        rows = rows + start
        bounds = np.flatnonzero(np.diff(lengths[rows].cumsum() // _AT_A_TIME)) + 1
        if len(rows):
            yield from zip(np.split(rows, bounds), np.split(of, bounds), strict=True)


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
    logit = _Logit(model, code_of(model, target), batch_size)
    number_in(level, "level", 0, model.config.n_bins, whole=True)
    places = {
        name: _checks.genes.places_in_model(in_data(members, model.genes), model.genes)
        for name, members in genes.items()
    }
    whole = token_rows(model, adata)
    before, latent = logit.odds(whole)
    bar = Bar(places.items(), desc="perturbation", unit="set", disable=None)
    for name, columns in bar:
        csr = _set(whole.csr, columns, level)
        rows = np.flatnonzero(np.diff((csr != whole.csr).indptr) > 0)
        if model.config.n_zeros == 0:
            rows = rows[np.diff(csr.indptr)[rows] > 0]
        if not len(rows):
            yield Change(name, rows, np.empty(0), np.empty(0, np.float32))
            continue
        after, moved = logit.odds(TokenRows(csr[rows], model.config))
        shift = np.linalg.norm(moved - latent[rows], axis=1)
        yield Change(name, rows, after - before[rows], shift)


def _set(csr: sparse.csr_matrix, columns: np.ndarray, level: int) -> sparse.csr_matrix:
    """Some columns at one level."""
    other = _without(csr, np.isin(csr.indices, columns))
    if level:
        n = csr.shape[0]
        rows, cols = np.repeat(np.arange(n), len(columns)), np.tile(columns, n)
        levels = np.full(len(rows), level, csr.dtype)
        other = other + sparse.csr_matrix((levels, (rows, cols)), shape=csr.shape)
        other = sparse.csr_matrix(other.astype(csr.dtype))
        other.sort_indices()
    return other
