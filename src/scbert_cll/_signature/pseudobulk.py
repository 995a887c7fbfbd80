"""Labelled cells of donors, and their counts summed per donor and class, on one scale."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from scipy import sparse

_PRIOR_COUNT = 2.0  # added before the logarithm


@dataclass(frozen=True)
class Samples:
    """Sums over the cells of a donor and class: one row per sample."""

    total: np.ndarray  # (samples, genes)
    donor: np.ndarray  # names
    code: np.ndarray  # of the class
    n_cells: np.ndarray
    size_factor: np.ndarray

    @cached_property
    def log(self) -> np.ndarray:
        """Scaled sums in log2, (samples, genes)."""
        return np.asarray(np.log2(self.total / self.size_factor[:, None] + _PRIOR_COUNT))

    def subset(self, rows: np.ndarray) -> Samples:
        """Some of the samples, scaled as they are."""
        parts = self.total, self.donor, self.code, self.n_cells, self.size_factor
        return Samples(*(part[rows] for part in parts))

    def scaled_by(self, genes: np.ndarray) -> Samples:
        """The same samples, with size factors from some of the genes, true/false."""
        return replace(self, size_factor=size_factors(self.total[:, genes]))

    def table(self, classes: list[str]) -> pd.DataFrame:
        """Donor, class, number of cells and size factor of each sample."""
        columns = {
            "donor": self.donor.astype(str),
            "class": np.array(classes)[self.code],
            "n_cells": self.n_cells,
            "size_factor": self.size_factor,
        }
        return pd.DataFrame(columns)


def cells_per_donor(codes: np.ndarray, donors: np.ndarray, classes: list[str]) -> pd.DataFrame:
    """Number of cells, donors × classes."""
    labels = pd.Categorical.from_codes(codes, pd.Index(classes))
    table = pd.crosstab(donors, labels, dropna=False)
    return table.reindex(columns=classes, fill_value=0).rename_axis(index=None, columns=None)


def samples(
    counts: sparse.csr_matrix, codes: np.ndarray, donors: np.ndarray, sampled: pd.DataFrame
) -> Samples:
    """Sums of each donor and class that is true in `sampled`, donors × classes, and scaled."""
    pairs = [
        (donor, code)
        for donor, row in sampled.iterrows()
        for code in np.flatnonzero(row.to_numpy())
    ]
    rows = [np.flatnonzero((donors == donor) & (codes == code)) for donor, code in pairs]
    sizes = np.array([len(r) for r in rows])
    ends = np.concatenate([[0], np.cumsum(sizes)])
    members = sparse.csr_matrix(
        (np.ones(ends[-1]), np.concatenate(rows), ends), shape=(len(rows), counts.shape[0])
    )
    total = (members @ counts).toarray().astype(np.float64)
    donor, code = np.array([d for d, _ in pairs], object), np.array([c for _, c in pairs])
    return Samples(total, donor, code, sizes, size_factors(total))


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
