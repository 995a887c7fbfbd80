"""How alike the gene sets of several runs are, beyond what chance gives."""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np


class Stability(NamedTuple):
    """Nogueira's index with 95 % limits, Kuncheva's (sets of one size only), mean Jaccard index."""

    nogueira: float
    low: float
    high: float
    kuncheva: float
    jaccard: float


def stability(chosen: np.ndarray) -> Stability:
    """Stability of the choices of several runs: runs × genes, true where a run chose a gene.

    Nogueira et al. 2018 (JMLR 18(174)): 1 when all runs choose alike, 0 by chance, whatever the
    sizes; undefined where nobody or everybody is chosen. Kuncheva 2007 is the same for sets of one
    size. Jaccard's index is not corrected for chance.
    """
    chosen = np.asarray(chosen, dtype=bool)
    n_runs, n_genes = chosen.shape
    sizes, share = chosen.sum(1), chosen.mean(0)
    pairs = [(chosen[a], chosen[b]) for a, b in combinations(range(n_runs), 2)]
    common = np.array([(a & b).sum() for a, b in pairs])
    either = np.array([(a | b).sum() for a, b in pairs])
    ratios = np.divide(common, either, out=np.full(len(pairs), np.nan), where=either > 0)
    jaccard = float(ratios.mean()) if pairs else np.nan
    k = sizes.mean() / n_genes
    if n_runs < 2 or k in (0.0, 1.0):
        return Stability(np.nan, np.nan, np.nan, np.nan, jaccard)
    variance = (n_runs / (n_runs - 1) * share * (1 - share)).mean()
    index = 1 - variance / (k * (1 - k))
    reach = 1.96 * np.sqrt(_variance(chosen, index, k, share))
    kuncheva = np.nan
    if len(set(sizes)) == 1:
        expected = sizes[0] ** 2 / n_genes
        kuncheva = float((common.mean() - expected) / (sizes[0] - expected))
    return Stability(float(index), float(index - reach), float(index + reach), kuncheva, jaccard)


def _variance(chosen: np.ndarray, index: float, k: float, share: np.ndarray) -> float:
    """Sampling variance of Nogueira's index over runs."""
    n_runs = len(chosen)
    size = chosen.mean(1)
    phi = (chosen * share).mean(1) - size * k + index / 2 * (2 * k * size - size - k + 1)
    phi /= k * (1 - k)
    return float(4 / n_runs**2 * ((phi - phi.mean()) ** 2).sum())
