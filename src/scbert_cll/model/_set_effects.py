"""What a set of genes does to a class's logit in each cell: the cell without it, or with nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scbert_cll import _checks
from scbert_cll.model._data import TokenRows
from scbert_cll.model._inference import Inference
from scbert_cll.nn import attribution

_AT_A_TIME: Final = 2**22  # tokens of changed cells that are held at once


class SetEffects(Inference):
    """A classifier that says what it makes of a cell without some of its genes."""

    classes: list[str]

    def get_set_effects(
        self,
        sets: Mapping[str, Sequence[str]],
        adata: AnnData | None = None,
        *,
        keep: bool = False,
        target: str | None = None,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        """Change of a class's logit, against the mean of the others, when a cell does not express the genes of a set.

        The logit is the network's alone, without the linear part. A gene that is not expressed has no token with ``tokens="expressed"``, and
        token 0 otherwise, which such a network was trained on. Memory grows with cells × sets, by one number each.

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
        Cells × sets, float64: logit of the changed cell less that of the whole cell, 0 where nothing changes; missing where a cell would have no
        token left.

        Raises
        ------
        KeyError
            The model does not know one of the genes.
        ValueError
            Unknown class.
        """
        target = self.classes[-1] if target is None else _checks.choice(target, self.classes, "target")
        places = [_checks.places_in_model(list(genes), self.genes) for genes in sets.values()]
        members, cells = _members(places, len(self.genes)), self._cells(adata)
        found = np.zeros((cells.n_obs, len(sets)))
        for rows, of, effect in self._set_effects(self._rows(cells), members, target, batch_size, keep=keep):
            found[rows, of] = effect
        return pd.DataFrame(found, index=cells.obs_names, columns=[str(name) for name in sets])

    def _set_effects(
        self,
        data: TokenRows,
        members: sparse.csr_matrix,
        target: str,
        batch_size: int | None,
        *,
        keep: bool = False,
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Cells, sets (rows of `members`, sets × genes) and effects, for all pairs in which a token changes."""
        whole = self._contrasts(data, target, batch_size)
        for rows, of in _changing(data.csr, members, keep=keep):
            inside = np.asarray(members[np.repeat(of, data.lengths()[rows]), data.csr[rows].indices]).ravel()
            csr = without(data.csr[rows], inside != keep)
            can = (np.diff(csr.indptr) > 0) | (self.config.tokens != "expressed")
            effect = np.full(len(rows), np.nan)
            if can.any():
                changed = self._contrasts(TokenRows(csr[can], self.config), target, batch_size)
                effect[can] = changed - whole[rows[can]]
            yield rows, of, effect

    def _contrasts(self, data: TokenRows, target: str, batch_size: int | None) -> np.ndarray:
        """The network's logit of a class against the mean of the others, float64 (cells,)."""
        (logits,) = self._collect_rows(
            data, batch_size, [len(self.classes)], lambda **cells: [self.module(**cells).float()]
        )
        contrast = attribution.contrast_of(len(self.classes), self.classes.index(target)).numpy()
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
    bounds = np.cumsum([0, *(len(np.unique(found)) for found in places)])
    return sparse.csr_matrix((np.ones(len(genes), bool), genes, bounds), shape=(len(places), n_genes))


def _changing(
    csr: sparse.csr_matrix, members: sparse.csr_matrix, *, keep: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of cell and set in which a token changes, as many at a time as have few tokens."""
    lengths = np.diff(csr.indptr).astype(np.int64)
    inside = sparse.csr_matrix(csr.astype(bool).astype(np.int32) @ members.astype(np.int32).T)
    rows, of = (inside.toarray() < lengths[:, None]).nonzero() if keep else inside.nonzero()
    bounds = np.flatnonzero(np.diff(lengths[rows].cumsum() // _AT_A_TIME)) + 1
    if len(rows):
        yield from zip(np.split(rows, bounds), np.split(of, bounds), strict=True)
