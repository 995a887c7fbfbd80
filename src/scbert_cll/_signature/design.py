"""What of a donor is compared with what: its classes with each other, or it with other donors."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import sparse, stats

from scbert_cll._signature.moderated import Moderated, paired, two_groups
from scbert_cll._signature.pseudobulk import Samples, samples

_ROUNDS = 3
_LEAST_SHARE = 0.5  # of the genes that must be left to scale by


@dataclass(frozen=True)
class Design:
    """Samples of donors, and whether they are compared within donors (of `n_classes` each) or between them (two classes)."""

    samples: Samples
    n_classes: int
    within: bool

    @property
    def donors(self) -> list[str]:
        """Names, in order."""
        return list(dict.fromkeys(self.samples.donor))

    @property
    def differences(self) -> pd.DataFrame:
        """Change in log2 from the first class to the last, donors × genes.

        Within donors with more than two classes, by the slope over all of them. Between donors, of
        those of the last class, to the mean of the first.
        """
        log = self.samples.log
        if not self.within:
            last = self.samples.code == self.n_classes - 1
            return pd.DataFrame(log[last] - log[~last].mean(axis=0), index=self.samples.donor[last])
        log = log.reshape(-1, self.n_classes, log.shape[1])
        step = np.arange(self.n_classes) - (self.n_classes - 1) / 2
        slope = np.tensordot(step / (step**2).sum(), log, axes=(0, 1)) * (self.n_classes - 1)
        return pd.DataFrame(slope, index=self.donors)

    def test(self, abundance: np.ndarray) -> Moderated:
        """Moderated t of every gene."""
        if self.within:
            return paired(self.differences.to_numpy(), abundance)
        last = self.samples.code == self.n_classes - 1
        return two_groups(self.samples.log[last], self.samples.log[~last], abundance)

    def without(self, donor: str) -> Design:
        """The same of the other donors."""
        return replace(self, samples=self.samples.of(self.samples.donor != donor))

    def scaled_by_calm_genes(self, alpha: float) -> Design:
        """Size factors without the genes that change, found in rounds of testing and scaling.

        Where many genes go up, medians over all genes let the others seem to go down (Sun et al.
        2013, doi:10.1186/1471-2105-14-219).
        """
        design = self
        for _ in range(_ROUNDS):
            calm = (
                stats.false_discovery_control(design.test(design.samples.log.mean(axis=0)).p)
                >= alpha
            )
            if calm.all() or calm.mean() < _LEAST_SHARE:
                break
            design = replace(self, samples=self.samples.scaled_by(calm))
        return design


def design_of(
    counts: sparse.csr_matrix,
    codes: np.ndarray,
    donors: np.ndarray,
    kept: pd.DataFrame,
    *,
    within: bool,
    alpha: float,
) -> Design:
    """Samples of the donors and classes in `kept` (true/false, donors × classes), summed and scaled."""
    classes = [str(name) for name in kept.columns]
    design = Design(samples(counts, codes, donors, kept, classes), len(classes), within)
    return design.scaled_by_calm_genes(alpha)


def enough_within(n_cells: pd.DataFrame, min_cells: int) -> pd.DataFrame:
    """Donors with enough cells of every class: the samples to take, true/false."""
    enough = n_cells >= min_cells
    return enough[enough.all(axis=1)]


def enough_between(n_cells: pd.DataFrame, min_cells: int) -> pd.DataFrame:
    """The class that most of a donor's cells are of, where these are enough."""
    most = n_cells.eq(n_cells.max(axis=1), axis=0) & (n_cells >= min_cells)
    return most[most.sum(axis=1) == 1]
