"""Counts summed per donor and class, on one scale, and compared within donors or between them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
import pandas as pd
from scipy import sparse

from scbert_cll._signature.moderated import Fit, Moderated

PRIOR_COUNT = 2.0  # added before the logarithm
_ROUNDS = 3
_ROUNDING = 1e-9  # share of the largest value
_LEAST_SHARE = 0.5  # of the genes that must be left to scale by


@dataclass(frozen=True)
class Design:
    """Samples, sums over cells of a donor and class; within donors there is one of each class.

    Several of one donor and class, such as time points, count as their mean in log2: the unit.
    They are compared within donors, or between them, and adjusted for covariates: means over the
    cells of a sample, of a category the shares of its levels. With a `number` the slope over it is
    tested, and classes are groups of like cells of a donor, or one between donors.
    """

    total: np.ndarray  # (samples, genes)
    donor: np.ndarray  # names
    code: np.ndarray  # of the class
    n_cells: np.ndarray
    size_factor: np.ndarray
    classes: list[str]
    within: bool
    covariates: np.ndarray  # (samples, columns)
    unit: np.ndarray  # number of the donor and class of each sample, in order
    number: np.ndarray | None = None  # its mean over the cells of each sample

    def _by_unit(self, values: np.ndarray) -> np.ndarray:
        """Means over the samples of each donor and class."""
        if len(self.unit) == len(self._first):
            return values
        return np.asarray(pd.DataFrame(values).groupby(self.unit).mean().to_numpy())

    @cached_property
    def _first(self) -> np.ndarray:
        """The first sample of each donor and class."""
        return np.unique(self.unit, return_index=True)[1]

    @cached_property
    def log(self) -> np.ndarray:
        """Scaled sums in log2, (donors and classes, genes)."""
        scaled = self.total / self.size_factor[:, None]
        return self._by_unit(np.asarray(np.log2(scaled + PRIOR_COUNT)))

    @property
    def names(self) -> np.ndarray:
        """Donor of each row of `log`."""
        return np.asarray(self.donor[self._first])

    @property
    def donors(self) -> list[str]:
        """Names of the donors, in order."""
        return list(dict.fromkeys(self.donor))

    @property
    def abundance(self) -> np.ndarray:
        """Mean log2 sum of each gene."""
        return np.asarray(self.log.mean(axis=0))

    @property
    def last(self) -> np.ndarray:
        """Rows of `log` of the last class, true/false."""
        return np.asarray(self.code[self._first] == len(self.classes) - 1)

    @cached_property
    def level(self) -> np.ndarray:
        """The number of each row of `log`, or its class: 0 is the first, 1 the last."""
        if self.number is None:
            return np.asarray(self.code[self._first] / (len(self.classes) - 1))
        return self._by_unit(self.number[:, None])[:, 0]

    def contrast(self, values: np.ndarray) -> np.ndarray:
        """Slope over the levels in each donor; of classes the change from the first to the last."""
        donor = pd.factorize(self.names)[0]
        mean = np.bincount(donor, self.level) / np.bincount(donor)
        centred = self.level - mean[donor]
        weight = centred / np.bincount(donor, centred**2)[donor]
        slopes = sparse.csr_matrix((weight, (donor, np.arange(len(donor))))) @ values
        return np.asarray(slopes)

    @cached_property
    def columns(self) -> np.ndarray:
        """Columns of the model beside its constant: of donors within them, of samples between."""
        if self.within:
            change = self.contrast(self._by_unit(self.covariates))
            rounded = np.abs(change) < _ROUNDING * np.abs(self.covariates).max(initial=0.0)
            return np.where(rounded, 0.0, change)  # of what is the same in all cells of a donor
        return np.column_stack([self.level, self._by_unit(self.covariates)])

    @cached_property
    def fit(self) -> Fit:
        """The linear model: within donors the constant is tested, between them the class."""
        if self.within:
            return Fit.of(self.contrast(self.log), self.columns)
        return Fit.of(self.log, self.columns, tested=0)

    @property
    def differences(self) -> pd.DataFrame:
        """Change in log2 from the first class to the last, donors × genes, beside covariates.

        Within donors with more than two classes, by the slope over all of them. Between donors, of
        those of the last class, to the mean of the first. Of a number the slope in each donor, or
        the donor's part in that between them, of which the slope is the mean.
        """
        if self.within:
            others = self.columns @ self.fit.coefficients
            return pd.DataFrame(self.contrast(self.log) - others, index=self.donors)
        log, last = self.log - self.columns[:, 1:] @ self.fit.coefficients[1:], self.last
        if self.number is not None:
            share = len(log) * self.fit.weights[:, None]
            return pd.DataFrame(share * (log - log.mean(axis=0)), self.names)
        return pd.DataFrame(log[last] - log[~last].mean(axis=0), self.names[last])

    @property
    def table(self) -> pd.DataFrame:
        """Donor, class, number of cells and mean size factor; of several samples, their number."""
        names, by_unit = np.array(self.classes)[self.code], pd.Series(self.unit).groupby(self.unit)
        table = pd.DataFrame({"donor": self.donor.astype(str), "class": names}).iloc[self._first]
        n_cells, factor = (
            pd.Series(values).groupby(self.unit) for values in (self.n_cells, self.size_factor)
        )
        table = table.reset_index(drop=True)
        table = table.assign(n_cells=n_cells.sum().to_numpy(), size_factor=factor.mean().to_numpy())
        table = table if self.number is None else table.assign(level=self.level)
        several = len(table) < len(self.unit)
        return table.assign(n_samples=by_unit.size().to_numpy()) if several else table

    @property
    def df(self) -> int:
        """Degrees of freedom beside the columns that vary; of too few donors below zero."""
        return len(self.donors) - 1 - int((np.ptp(self.columns, axis=0) > 0).sum())

    def test(self) -> Moderated:
        """Moderated t of every gene."""
        return self.fit.test(self.abundance)

    def taken(self, samples: np.ndarray) -> Self:
        """The same design of some samples (true/false), scaled as it is."""
        names = ["total", "donor", "code", "n_cells", "size_factor", "covariates", "unit"]
        names += [] if self.number is None else ["number"]
        return replace(self, **{name: getattr(self, name)[samples] for name in names})

    def without(self, donor: str) -> Self:
        """The same design of the other donors, scaled as it is."""
        return self.taken(self.donor != donor)

    def scaled_by_unchanged_genes(self, alpha: float) -> Self:
        """Size factors without the genes that change, found in rounds of testing and scaling.

        Where many genes go up, medians over all genes let the others seem to go down (Sun et al.
        2013, doi:10.1186/1471-2105-14-219).
        """
        design = self
        for _ in range(_ROUNDS):
            unchanged = design.test().q >= alpha
            if unchanged.all() or unchanged.mean() < _LEAST_SHARE:
                break
            design = replace(self, size_factor=size_factors(self.total[:, unchanged]))
        return design


def size_factors(total: np.ndarray) -> np.ndarray:
    """Median of ratios to the geometric mean sample.

    Anders and Huber 2010, doi:10.1186/gb-2010-11-10-r106. Of the genes in every sample; where there
    is none, the ratios of the totals.
    """
    in_all = (total > 0).all(axis=0)
    if not in_all.any():
        return np.asarray(total.sum(1) / np.exp(np.log(total.sum(1)).mean()))
    log = np.log(total[:, in_all])
    return np.asarray(np.exp(np.median(log - log.mean(axis=0), axis=1)))
