"""Random sets of genes that are expressed as much, and as often, as those of a given set."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree
from scipy.stats import rankdata

_NEIGHBOURS = 25


class Matcher:
    """Replaces genes by others of like mean expression and detection.

    Like the control genes of Tirosh et al. 2016 (doi:10.1126/science.aad0501), but with a gene's
    neighbours by rank instead of bins: no gene stands at the edge of one, and detection is matched,
    too.
    """

    def __init__(self, abundance: np.ndarray, detected: np.ndarray) -> None:
        self._places = np.column_stack([rankdata(abundance), rankdata(detected)])

    def fits(self, k: int) -> bool:
        """Enough other genes to choose among."""
        return len(self._places) >= 3 * k

    def draw(self, chosen: np.ndarray, n_sets: int, rng: np.random.Generator) -> np.ndarray:
        """Sets × genes (positions): another gene for each chosen one, none twice in a set."""
        if not len(chosen):
            return np.empty((n_sets, 0), dtype=np.int64)
        others = np.setdiff1d(np.arange(len(self._places)), chosen)
        # with as many neighbours as are chosen, one is always free
        n_near = min(max(_NEIGHBOURS, len(chosen)), len(others))
        _, near = cKDTree(self._places[others]).query(self._places[chosen], n_near)
        near = others[np.asarray(near).reshape(len(chosen), n_near)]
        orders = (rng.permuted(near, axis=1) for _ in range(n_sets))
        return np.stack([_distinct(order, rng) for order in orders])


def _distinct(near: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One candidate of each row, the first that no other row has taken."""
    taken: set[int] = set()
    chosen = np.empty(len(near), dtype=np.int64)
    for i in rng.permutation(len(near)):
        chosen[i] = next(gene for gene in near[i].tolist() if gene not in taken)
        taken.add(int(chosen[i]))
    return chosen
