"""Genes that were reported with CD49d in CLL, to hold a ranking against."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats


class Recovery(NamedTuple):
    """Area under the ROC curve of wanted genes in a ranking, its p, and how many were ranked."""

    auroc: float
    p: float
    n: int


def genes() -> pd.DataFrame:
    """Reference genes: ``gene``, ``tier``, ``direction`` and ``evidence``.

    The direction is 1 or −1 where a gene is higher or lower with CD49d, and 0 where it has none.
    Tier ``T1`` was reported with CD49d in CLL; ``T2`` with trisomy 12 or NOTCH1, which go with
    CD49d; ``T3`` is not verified; ``contamination`` are genes of other cells that B cells should
    not have. No published list of the genes of CD49d-positive CLL is behind this: it is a check
    that a ranking is sane, not a ground truth.
    """
    path = resources.files("scbert_cll._signature").joinpath("cd49d_reference.csv")
    with path.open(encoding="utf-8") as file:
        return pd.read_csv(file)


def recovery(
    ranking: pd.Series,
    wanted: Iterable[str],
    n_permutations: int = 1000,
    rng: int | np.random.Generator | None = 0,
) -> Recovery:
    """Area under the ROC curve of the wanted genes in a ranking, and its p.

    A ranking has a score by gene, the highest first. The p is the share of draws, of as many random
    genes of the ranking, that are as far up; the ranking itself counts as one, so it is never zero.
    Genes that move together are not independent draws, so a small p is a hint and not a proof; and
    a large one does not refute, since the list is not the truth. Genes without a score are not
    ranked. Where no gene or every gene is wanted there is no area.
    """
    ranking = ranking.dropna()
    ranks = stats.rankdata(ranking.to_numpy(np.float64))
    hit = ranking.index.isin(list(wanted))
    n = int(hit.sum())
    if n in (0, len(ranks)):
        return Recovery(np.nan, np.nan, n)
    generator = np.random.default_rng(rng)
    draws = (generator.choice(len(ranks), n, replace=False) for _ in range(n_permutations))
    rank_sum = ranks[hit].sum()
    n_as_high = sum(ranks[rows].sum() >= rank_sum for rows in draws)
    auroc = (rank_sum - n * (n + 1) / 2) / (n * (len(ranks) - n))
    return Recovery(float(auroc), (1 + n_as_high) / (1 + n_permutations), n)
