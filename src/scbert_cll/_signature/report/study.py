"""The cells a signature was found in, so that it can be found again: without a donor, or with permuted labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from scipy import sparse, stats
from sklearn.model_selection import GroupKFold

from scbert_cll._signature.design import Design, design_of, enough_within
from scbert_cll._signature.procedure import Found, Limits, find
from scbert_cll._signature.pseudobulk import cells_per_donor

N_FOLDS = 4


@dataclass(frozen=True)
class Measured:
    """Counts of cells × genes, and which of the genes enough cells express."""

    counts: sparse.csr_matrix
    names: pd.Index
    min_detected: float

    @cached_property
    def detected(self) -> np.ndarray:
        """Share of the cells that express each gene."""
        found = self.counts.indices[self.counts.data > 0]
        return np.asarray(np.bincount(found, minlength=self.counts.shape[1]) / self.counts.shape[0])

    @cached_property
    def tested(self) -> Measured:
        """Those genes only."""
        kept = np.flatnonzero(self.detected >= self.min_detected)
        return Measured(self.counts[:, kept], self.names[kept], self.min_detected)


@dataclass(frozen=True)
class Study:
    """Labelled cells: what was measured (shared by all permutations of labels), codes of the classes, and names of the donors."""

    measured: Measured
    codes: np.ndarray
    donors: np.ndarray
    classes: list[str]
    limits: Limits

    @cached_property
    def kept(self) -> pd.DataFrame:
        """Donors with enough cells of every class, × classes."""
        return enough_within(
            cells_per_donor(self.codes, self.donors, self.classes), self.limits.min_cells
        )

    @property
    def whole(self) -> list[str]:
        """Their names."""
        return [str(name) for name in self.kept.index]

    @property
    def tested_counts(self) -> sparse.csr_matrix:
        """Counts of the genes that enough cells express."""
        return self.measured.tested.counts

    @property
    def genes(self) -> pd.Index:
        """Their names."""
        return self.measured.tested.names

    @property
    def detected(self) -> np.ndarray:
        """In which share of the cells they are."""
        return self.measured.tested.detected

    @property
    def positive(self) -> np.ndarray:
        """Cells of the last class."""
        return np.asarray(self.codes == len(self.classes) - 1)

    @property
    def outer(self) -> np.ndarray:
        """Positions of the cells of the first and the last class."""
        return np.flatnonzero(np.isin(self.codes, [0, len(self.classes) - 1]))

    def without(self, left_out: list[str]) -> Study:
        """The cells of the other donors."""
        kept = np.flatnonzero(~np.isin(self.donors, left_out))
        measured = replace(self.measured, counts=self.measured.counts[kept])
        return replace(self, measured=measured, codes=self.codes[kept], donors=self.donors[kept])

    def permuted(self, rng: np.random.Generator) -> Study:
        """The same cells with the labels of each donor's cells in another order."""
        codes = self.codes.copy()
        for donor in np.unique(self.donors):
            own = np.flatnonzero(self.donors == donor)
            codes[own] = rng.permutation(codes[own])
        return replace(self, codes=codes)

    def find(self) -> Found:
        """The whole procedure."""
        measured = self.measured
        return find(
            measured.counts, measured.names, self.codes, self.donors, self.classes, self.limits
        )

    def design(self) -> Design:
        """Sums per donor and class, of the tested genes."""
        alpha = self.limits.alpha
        return design_of(
            self.tested_counts, self.codes, self.donors, self.kept, within=True, alpha=alpha
        )

    def folds(self) -> list[list[str]]:
        """Donors to hold out, a fold at a time; those that are left must suffice for the procedure.

        Empty if they never do.
        """
        names, n = self.whole, len(self.whole)
        if n - 1 < self.limits.min_donors:
            return []
        n_folds = N_FOLDS if n - -(-n // N_FOLDS) >= self.limits.min_donors else n
        parts = GroupKFold(n_folds).split(names, groups=names)
        return [[names[i] for i in test] for _, test in parts]


def n_found(study: Study) -> int:
    """Size of the signature; where the test alone finds nothing, without asking the classifier."""
    design = study.design()
    test = design.test(design.samples.log.mean(axis=0))
    if stats.false_discovery_control(test.p).min() >= study.limits.alpha:
        return 0
    return study.find().n_selected


def clearest_without_each(study: Study, k: int) -> np.ndarray:
    """The k genes with the largest t, leaving out one donor at a time: donors × tested genes, true or false."""
    design = study.design()
    found = np.zeros((len(design.donors), len(study.genes)), dtype=bool)
    for i, donor in enumerate(design.donors):
        rest = design.without(donor)
        t = rest.test(rest.samples.log.mean(axis=0)).t
        found[i, largest(np.abs(t), k)] = True
    return found


def found_without_each(study: Study) -> np.ndarray:
    """The signature found anew, the whole procedure, leaving out one donor at a time: donors × tested genes."""
    chosen = np.zeros((len(study.whole), len(study.genes)), dtype=bool)
    for i, donor in enumerate(study.whole):
        chosen[i] = study.genes.isin(selected(study.without([donor]).find()))
    return chosen


def selected(found: Found) -> list[str]:
    """Names of the genes of a signature."""
    return found.genes.loc[found.genes["selected"], "gene"].tolist() if len(found.genes) else []


def largest(values: np.ndarray, k: int) -> np.ndarray:
    """Positions of the k largest values, the largest first."""
    return np.argsort(-values, kind="stable")[:k]
