"""Columns of a matrix brought to the places of a vocabulary."""

from __future__ import annotations

import numpy as np
from scipy import sparse


class Columns:
    """Where each column of a data set belongs, for all its matrices and blocks of cells.

    Parameters
    ----------
    index
        Place of each column, −1 for one that is left out, as
        :meth:`~scbert_cll.vocab.GeneVocab.resolve` gives it.
    n_genes
        Length of the vocabulary.
    """

    def __init__(self, index: np.ndarray, n_genes: int) -> None:
        columns = np.flatnonzero(index >= 0)
        places = index[columns]
        self.per_gene = np.bincount(places, minlength=n_genes)
        ones = np.ones(len(columns), np.int8)
        shape = len(index), n_genes
        self._place = sparse.csr_matrix((ones, (columns, places)), shape)

    @property
    def is_summed(self) -> bool:
        """Whether several columns share a place."""
        return bool((self.per_gene > 1).any())

    @property
    def is_complete(self) -> bool:
        """Whether no column is left out."""
        return bool(self.per_gene.sum() == self._place.shape[0])

    def placed(self, csr: sparse.csr_matrix) -> sparse.csr_matrix:
        """Put columns in their place and sum those that share one; genes of a cell in any order.

        One sparse product, in a type that holds the sums.
        """
        dtype = np.int64 if self.is_summed and csr.dtype.kind in "bui" else csr.dtype
        return csr @ self._place.astype(dtype)

    def moved(self, csr: sparse.csr_matrix) -> sparse.csr_matrix:
        """The same, genes of every cell in order."""
        moved = self.placed(csr)
        moved.sort_indices()
        return moved
