"""The comparison of classes: within each donor, or between donors."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats

from scbert_cll._signature.moderated import Moderated, paired, two_groups
from scbert_cll._signature.pseudobulk import Samples

_ROUNDS = 3
_LEAST_SHARE = 0.5  # of the genes that must be left to scale by


@dataclass(frozen=True)
class Design:
    """Samples, compared within donors (of `n_classes` each) or between them (of two classes)."""

    samples: Samples
    n_classes: int
    within: bool

    @property
    def donors(self) -> list[str]:
        """Names of the donors, in order."""
        return list(dict.fromkeys(self.samples.donor))

    @property
    def abundance(self) -> np.ndarray:
        """Mean log2 sum of each gene."""
        return np.asarray(self.samples.log.mean(axis=0))

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

    def test(self) -> Moderated:
        """Moderated t of every gene."""
        if self.within:
            return paired(self.differences.to_numpy(), self.abundance)
        last = self.samples.code == self.n_classes - 1
        return two_groups(self.samples.log[last], self.samples.log[~last], self.abundance)

    def without(self, donor: str) -> Design:
        """The same design of the other donors, scaled as it is."""
        return replace(self, samples=self.samples.subset(self.samples.donor != donor))

    def scaled_by_unchanged_genes(self, alpha: float) -> Design:
        """Size factors without the genes that change, found in rounds of testing and scaling.

        Where many genes go up, medians over all genes let the others seem to go down (Sun et al.
        2013, doi:10.1186/1471-2105-14-219).
        """
        design = self
        for _ in range(_ROUNDS):
            unchanged = stats.false_discovery_control(design.test().p) >= alpha
            if unchanged.all() or unchanged.mean() < _LEAST_SHARE:
                break
            design = replace(self, samples=self.samples.scaled_by(unchanged))
        return design
