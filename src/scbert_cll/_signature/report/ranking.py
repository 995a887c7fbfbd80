"""Plain rankings of genes beside a signature: a score of each gene in the positive cells of each donor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from scbert_cll._signature.report.stability import Stability, stability
from scbert_cll._signature.report.study import Study, largest


@dataclass(frozen=True)
class Ranking:
    """Scores under the labels as they are (run 0) and permuted within donors (runs from 1 on)."""

    values: np.ndarray  # (runs, donors, genes), mean over a donor's positive cells
    weight: np.ndarray  # (donors,), how much a donor counts
    donors: list[str]
    genes: pd.Index

    def score(self, left_out: list[str] | None = None, run: int = 0) -> np.ndarray:
        """Mean score of each gene over the donors that are left."""
        weight = np.where(np.isin(self.donors, left_out or []), 0.0, self.weight)
        return np.asarray(weight @ self.values[run] / weight.sum())

    def order(self, left_out: list[str] | None = None) -> list[str]:
        """All genes, the highest score first."""
        score = self.score(left_out)
        return self.genes[largest(score, len(score))].tolist()

    def stability(self, k: int, run: int) -> Stability:
        """Of the first k genes, leaving out one donor at a time."""
        chosen = np.zeros((len(self.donors), len(self.genes)), dtype=bool)
        for i, donor in enumerate(self.donors):
            chosen[i, largest(self.score([donor], run), k)] = True
        return stability(chosen)


def abundance(study: Study, permuted: list[Study]) -> Ranking:
    """By the mean log2 sum of the positive cells."""
    runs = []
    for one in (study, *permuted):
        pairs = one.design().samples
        runs.append(pairs.log[pairs.code == len(study.classes) - 1])
    return Ranking(np.stack(runs), np.ones(len(study.whole)), study.whole, study.genes)
