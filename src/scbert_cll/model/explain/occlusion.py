"""Effects of genes and sets of genes: the logit of a cell without them, or with nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import pandas as pd
from anndata import AnnData
from lightning.pytorch.utilities import rank_zero_info
from scipy import sparse

from scbert_cll import _checks
from scbert_cll.model._inference import cells_of, collect, token_rows
from scbert_cll.model._protocols import Classifier
from scbert_cll.model.explain.groups import coded, evenly_spaced, target_of
from scbert_cll.model.training.batches import TokenRows
from scbert_cll.nn import attribution

_AT_A_TIME: Final = 2**22  # tokens of changed cells that are held at once
_BLOCK: Final = 1024  # cells whose changes are listed at once
_MANY: Final = 20_000  # changed cells, from which on their number is told


classes: list[str]


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
    target = target_of(model, target)
    places = [_checks.genes.places_in_model(list(genes), model.genes) for genes in sets.values()]
    members, cells = _members(places, len(model.genes)), cells_of(model, adata)
    effects = np.zeros((cells.n_obs, len(sets)))
    for rows, of, effect in _set_effects(
        model, token_rows(model, cells), members, target, batch_size, keep=keep
    ):
        effects[rows, of] = effect
    return pd.DataFrame(effects, index=cells.obs_names, columns=[str(name) for name in sets])


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
    target = target_of(model, target)
    places = (
        np.arange(len(model.genes))
        if genes is None
        else _checks.genes.places_in_model(genes, model.genes)
    )
    cells = cells_of(model, adata)
    _checks.adata.one_group_per_cell(groups, cells)
    codes, names = coded(groups)
    rows = evenly_spaced(codes, n_cells)
    data, codes = token_rows(model, cells[rows]), codes[rows]
    if (n_changed := int(np.isin(data.csr.indices, places).sum())) > _MANY:
        rank_zero_info(
            f"Occlusion predicts {n_changed:,} changed cells; with n_cells= or genes= "
            f"there are fewer of them."
        )
    members, total = (
        sparse.eye(len(model.genes), dtype=bool).tocsr()[places],
        np.zeros((len(names), len(places))),
    )
    for changed, of, effect in _set_effects(model, data, members, target, batch_size):
        np.subtract.at(total, (codes[changed], of), np.nan_to_num(effect))
    mean = total / np.bincount(codes, minlength=len(names))[:, None]
    return pd.DataFrame(mean.T, index=model.genes[places], columns=names)


def _set_effects(
    model: Classifier,
    data: TokenRows,
    members: sparse.csr_matrix,
    target: str,
    batch_size: int | None,
    *,
    keep: bool = False,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Cells, sets (rows of `members`) and effects, of all pairs in which a token changes."""
    whole = _contrasts(model, data, target, batch_size)
    for rows, of in _changing(data.csr, members, keep=keep):
        inside = np.asarray(
            members[np.repeat(of, data.lengths()[rows]), data.csr[rows].indices]
        ).ravel()
        csr = without(data.csr[rows], inside != keep)
        can = (np.diff(csr.indptr) > 0) | (model.config.n_zeros > 0)
        effect = np.full(len(rows), np.nan)
        if can.any():
            changed = _contrasts(model, TokenRows(csr[can], model.config), target, batch_size)
            effect[can] = changed - whole[rows[can]]
        yield rows, of, effect


def _contrasts(
    model: Classifier, data: TokenRows, target: str, batch_size: int | None
) -> np.ndarray:
    """The network's logit of a class against the mean of the others, float64 (cells,)."""
    (logits,) = collect(
        model,
        data,
        batch_size,
        [len(model.classes)],
        lambda **cells: [model.module(**cells).float()],
    )
    contrast = attribution.contrast_of(len(model.classes), model.classes.index(target)).numpy()
    return np.asarray(logits.astype(np.float64) @ contrast.astype(np.float64))


def without(csr: sparse.csr_matrix, gone: np.ndarray) -> sparse.csr_matrix:
    """A copy in which the entries `gone` (one truth value each) are zero."""
    other = csr.copy()
    other.data[gone] = 0
    other.eliminate_zeros()
    return other


def _members(places: Sequence[np.ndarray], n_genes: int) -> sparse.csr_matrix:
    """Sets × genes, True where a gene belongs to a set."""
    genes = np.concatenate([np.zeros(0, np.int64), *map(np.unique, places)])
    bounds = np.cumsum([0, *(len(np.unique(columns)) for columns in places)])
    return sparse.csr_matrix(
        (np.ones(len(genes), bool), genes, bounds), shape=(len(places), n_genes)
    )


def _changing(
    csr: sparse.csr_matrix, members: sparse.csr_matrix, *, keep: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of cell and set in which a token changes, as many at a time as have few tokens."""
    lengths, sets = np.diff(csr.indptr).astype(np.int64), members.T.astype(np.int32)
    for start in range(0, csr.shape[0], _BLOCK):
        inside = sparse.csr_matrix(csr[start : start + _BLOCK].astype(bool).astype(np.int32) @ sets)
        changes = inside.toarray() < lengths[start : start + _BLOCK, None] if keep else inside
        rows, of = changes.nonzero()
        rows = rows + start
        bounds = np.flatnonzero(np.diff(lengths[rows].cumsum() // _AT_A_TIME)) + 1
        if len(rows):
            yield from zip(np.split(rows, bounds), np.split(of, bounds), strict=True)
