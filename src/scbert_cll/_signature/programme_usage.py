"""Whether programmes go with a class within donors: a paired test of their usage."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
import pandas as pd
from scipy import sparse, stats

from scbert_cll._counts import TARGET_SUM
from scbert_cll._signature.design import Design, size_factors
from scbert_cll._signature.moderated import Moderated
from scbert_cll._signature.programmes import Programmes, usage

_PRIOR: Final = 0.01  # share of the mean usage, added before the logarithm
_UNCHANGED: Final = 0.05  # q from which a gene counts as unchanged, to scale by
_MOST: Final = 0.75  # share of the genes of a programme that go the way it goes


@dataclass(frozen=True)
class ByClass:
    """Counts of the cells of donors that have enough of every class.

    The usage of a class is that of its summed cells, on the scale of the genes that do not change.
    A mean of the cells' own would follow depth: few counts make usage noisy, and noise cannot go
    below zero.
    """

    counts: sparse.csr_matrix  # cells × genes of the weights
    totals: np.ndarray  # of all genes
    donors: np.ndarray  # names
    codes: np.ndarray  # of the classes
    classes: list[str]
    programmes: Programmes

    @cached_property
    def names(self) -> list[str]:
        """Donors in order."""
        return sorted(set(self.donors))

    @cached_property
    def design(self) -> Design:
        """Scaled sums of the donors' classes."""
        n_donors, n = len(self.names), len(self.classes)
        sample = pd.Index(self.names).get_indexer(pd.Index(self.donors)) * n + self.codes
        places = sample, np.arange(len(sample))
        shape = n_donors * n, len(sample)
        members = sparse.csr_matrix((np.ones(len(sample)), places), shape=shape)
        sums, n_cells = (members @ self.counts).toarray(), np.asarray(members.sum(axis=1)).ravel()
        samples = np.repeat(self.names, n), np.tile(np.arange(n), n_donors), n_cells
        none = np.empty((len(sums), 0))  # covariates
        factors, unit = size_factors(sums), np.arange(len(sums))
        design = Design(sums, *samples, factors, self.classes, True, none, unit)
        return design.scaled_by_unchanged_genes(_UNCHANGED) if n > 1 else design

    @cached_property
    def log(self) -> np.ndarray:
        """Log2 usage, donors × classes × programmes."""
        scaled = self.design.total / self.design.size_factor[:, None]
        level = TARGET_SUM * len(self.totals) / self.totals.sum() / self.design.n_cells.mean()
        used = usage(scaled * level, self.programmes.weights, self.programmes.scale)
        prior = _PRIOR * np.maximum(used.mean(axis=0), np.finfo(float).tiny)
        log = np.log2(used + prior)
        return np.asarray(log.reshape(len(self.names), len(self.classes), -1))

    @property
    def differences(self) -> np.ndarray:
        """Change from the first class to the last, donors × programmes; by the slope over all."""
        return self.design.contrast(self.log.reshape(-1, self.log.shape[2]))

    @cached_property
    def test(self) -> Moderated:
        """Paired t of every programme: a few of them are no prior of each other's variances."""
        differences = self.differences
        effect, df = differences.mean(axis=0), len(differences) - 1
        error = np.maximum(stats.sem(differences), np.finfo(float).tiny)
        t = effect / error
        return Moderated(effect, error, t, 2 * stats.t.sf(np.abs(t), df), df, 0.0)

    def permuted(self, rng: np.random.Generator) -> ByClass:
        """The same cells with the labels of each donor's cells in another order."""
        codes = self.codes.copy()
        for name in self.names:
            rows = np.flatnonzero(self.donors == name)
            codes[rows] = rng.permutation(codes[rows])
        return replace(self, codes=codes)

    def table(self, alpha: float, n_permutations: int, rng: np.random.Generator) -> pd.DataFrame:
        """Evidence for each programme.

        `p_permuted` is the share of permutations in which the largest t of all programmes is as
        large as its own.
        """
        test, differences = self.test, self.differences
        largest = [np.abs(self.permuted(rng).test.t).max() for _ in range(n_permutations)]
        n_larger = (np.array(largest)[:, None] >= np.abs(test.t)).sum(axis=0)
        p_permuted = (1 + n_larger) / (1 + n_permutations)
        of_genes = np.sign(self.design.differences.mean(axis=0).to_numpy())
        members = self.programmes.weights.to_numpy() > 0
        same = of_genes[:, None] == np.sign(test.effect)
        agreeing = (members & same).sum(axis=0) / members.sum(axis=0)
        columns = {
            **test.evidence,
            "p_permuted": p_permuted,
            "n_same_sign": (np.sign(differences) == np.sign(test.effect)).sum(axis=0),
            "genes_agree": agreeing,
            "tied": (test.q < alpha) & (p_permuted <= alpha) & (agreeing >= _MOST),
        }
        return pd.DataFrame(columns)

    @property
    def usage(self) -> pd.DataFrame:
        """Log2 usage, a row per programme, donor and class."""
        names = self.programmes.table["programme"].tolist()
        index = pd.MultiIndex.from_product(
            [self.names, self.classes, names], names=["donor", "class", "programme"]
        )
        table = pd.DataFrame({"log2_usage": self.log.ravel()}, index).reset_index()
        return table[["programme", "donor", "class", "log2_usage"]]

    @property
    def means(self) -> pd.DataFrame:
        """Mean log2 usage of each class over donors, with 95 % limits of what is within donors.

        Morey 2008 (doi:10.20982/tqmp.04.2.p061); of one class those of the mean.
        """
        log, (n_donors, n_classes, _) = self.log, self.log.shape
        mean, spread = log.mean(axis=0), log
        if n_classes > 1:
            within = log - log.mean(axis=1, keepdims=True)
            spread = within * np.sqrt(n_classes / (n_classes - 1))
        error = spread.std(axis=0, ddof=1) / np.sqrt(n_donors) if n_donors > 1 else mean * np.nan
        reach = error * stats.t.ppf(0.975, max(n_donors - 1, 1))
        names = self.programmes.table["programme"].tolist()
        index = pd.MultiIndex.from_product([self.classes, names], names=["class", "programme"])
        columns = {"log2_usage": mean, "low": mean - reach, "high": mean + reach}
        values = {name: value.ravel() for name, value in columns.items()}
        table = pd.DataFrame(values, index).reset_index()
        return table[["programme", "class", *columns]]


def depth_r(
    used: np.ndarray, totals: np.ndarray, donors: np.ndarray, names: list[str]
) -> np.ndarray:
    """Correlation of usage with the logarithm of the cells' counts, mean over donors."""
    values = []
    for name in names:
        both = np.column_stack([used, np.log(totals)])[donors == name]
        both -= both.mean(axis=0)
        length = np.linalg.norm(both, axis=0)
        unit = both / np.where(length > 0, length, 1)
        values.append(unit[:, :-1].T @ unit[:, -1])
    return np.asarray(np.mean(values, axis=0))
