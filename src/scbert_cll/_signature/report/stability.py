"""How alike the gene sets of several runs are, beyond what chance gives."""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np


class Stability(NamedTuple):
    """Nogueira's index with its 95 % limits, Kuncheva's (sets of one size only) and the mean Jaccard index."""

    nogueira: float
    low: float
    high: float
    kuncheva: float
    jaccard: float


def stability(chosen: np.ndarray) -> Stability:
    """Of runs × genes, true where a run chose a gene.

    Nogueira et al. 2018 (JMLR 18(174)): 1 when all runs choose alike, 0 by chance, whatever the
    sizes; undefined where nobody or everybody is chosen. Kuncheva 2007 is the same for sets of one
    size. Jaccard's index is not corrected for chance.
    """
    chosen = np.asarray(chosen, dtype=bool)
    n_runs, n_genes = chosen.shape
    pairs = list(combinations(range(n_runs), 2))
    jaccard = np.mean([_jaccard(chosen[a], chosen[b]) for a, b in pairs]) if pairs else np.nan
    sizes = chosen.sum(1)
    share, k = chosen.mean(0), sizes.mean() / n_genes
    if n_runs < 2 or k in (0.0, 1.0):
        return Stability(np.nan, np.nan, np.nan, np.nan, float(jaccard))
    variance = (n_runs / (n_runs - 1) * share * (1 - share)).mean()
    index = 1 - variance / (k * (1 - k))
    reach = 1.96 * np.sqrt(_variance(chosen, index, k, share))
    same = len(set(sizes)) == 1
    return Stability(
        float(index),
        float(index - reach),
        float(index + reach),
        _kuncheva(chosen) if same else np.nan,
        float(jaccard),
    )


def _variance(chosen: np.ndarray, index: float, k: float, share: np.ndarray) -> float:
    """Sampling variance of Nogueira's index over runs."""
    n_runs = len(chosen)
    own = chosen.mean(1)
    phi = (chosen * share).mean(1) - own * k + index / 2 * (2 * k * own - own - k + 1)
    phi /= k * (1 - k)
    return float(4 / n_runs**2 * ((phi - phi.mean()) ** 2).sum())


def _kuncheva(chosen: np.ndarray) -> float:
    n_genes, k = chosen.shape[1], int(chosen[0].sum())
    common = [(chosen[a] & chosen[b]).sum() for a, b in combinations(range(len(chosen)), 2)]
    return float((np.mean(common) - k**2 / n_genes) / (k - k**2 / n_genes))


def _jaccard(a: np.ndarray, b: np.ndarray) -> float:
    either = (a | b).sum()
    return float((a & b).sum() / either) if either else np.nan
