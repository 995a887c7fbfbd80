"""Plain rankings of genes, to hold a signature against: a score in each donor's positive cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from scbert_cll._signature.data import PseudobulkData
from scbert_cll._signature.procedure import find
from scbert_cll._signature.report.criteria import SIGNATURE


@dataclass(frozen=True)
class Ranking:
    """Scores under the labels as they are (run 0) and permuted (runs from 1 on)."""

    values: np.ndarray  # (runs, donors, genes), mean over a donor's positive cells
    weight: np.ndarray  # (runs, donors), how much a donor counts
    donors: list[str]
    genes: pd.Index

    def score(self, left_out: list[str] | None = None, run: int = 0) -> np.ndarray:
        """Mean score of each gene over the donors that are left."""
        weight = np.where(np.isin(self.donors, left_out or []), 0.0, self.weight[run])
        return np.asarray(weight @ self.values[run] / weight.sum())

    def order(self, left_out: list[str] | None = None) -> list[str]:
        """All genes, the highest score first."""
        score = self.score(left_out)
        return self.genes[largest(score, len(score))].tolist()


def abundance(data: PseudobulkData, permuted: list[PseudobulkData]) -> Ranking:
    """Ranking by the mean log2 sum of the positive cells."""
    designs = [run.design for run in (data, *permuted)]
    donors, genes = data.complete_donors, data.counts.tested.genes
    weight = np.array([np.isin(donors, design.names[design.last]) for design in designs])
    values = np.zeros((*weight.shape, len(genes)))
    for of_run, design, has_last in zip(values, designs, weight, strict=True):
        of_run[has_last] = design.log[design.last]
    return Ranking(values, weight.astype(float), donors, genes)


# subject: all its genes in order (positions), and how many of them are meant
type Ordered = dict[str, tuple[np.ndarray, int]]


@dataclass(frozen=True)
class Comparison:
    """A signature of `n_genes` and the first `k` genes of plain rankings, in the same cells."""

    data: PseudobulkData
    permuted: list[PseudobulkData]  # the same cells under permuted labels
    n_genes: int
    k: int
    rankings: Mapping[str, Ranking]

    def ordered(self, left_out: list[str]) -> Ordered:
        """Genes of each subject, found without some donors: positions among the tested genes.

        Of the signature as many as it has there. Genes that are tested without these donors only
        are left out.
        """
        signature = find(self.data.without(left_out))
        names = signature.genes["gene"].tolist() if len(signature.genes) else []
        lists = {SIGNATURE: (names, len(signature.selected))}
        for name, ranking in self.rankings.items():
            lists[name] = ranking.order(left_out), self.k
        tested, orders = self.data.counts.tested.genes, {}
        for name, (genes, n) in lists.items():
            places = tested.get_indexer(pd.Index(genes, dtype=object))
            orders[name] = places[places >= 0], n
        return orders


def largest(values: np.ndarray, k: int) -> np.ndarray:
    """Positions of the k largest values, the largest first."""
    return np.argsort(-values, kind="stable")[:k]
