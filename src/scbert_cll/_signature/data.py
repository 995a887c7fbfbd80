"""What a signature is found in: cells with a class and a donor, and the limits they must meet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from sklearn.model_selection import GroupKFold

from scbert_cll._checks import adata as checks
from scbert_cll._checks import people
from scbert_cll._checks.counts import noted_counts
from scbert_cll._signature import covariates as covariates_of
from scbert_cll._signature.both import MixedDesign
from scbert_cll._signature.design import Design, size_factors

N_FOLDS = 4


@dataclass(frozen=True)
class Limits:
    """Limits of donors, genes and results."""

    min_cells: int = 20
    min_donors: int = 4
    min_detected: float = 0.02
    alpha: float = 0.05
    design: str = "within"

    @property
    def within(self) -> bool:
        """Whether classes are compared within donors."""
        return self.design == "within"


@dataclass(frozen=True)
class GeneCounts:
    """Counts of cells × genes, and which of the genes enough cells express."""

    matrix: sparse.csr_matrix
    genes: pd.Index
    min_detected: float

    @cached_property
    def detected(self) -> np.ndarray:
        """Share of the cells that express each gene."""
        n_cells, n_genes = self.matrix.shape
        expressed = self.matrix.indices[self.matrix.data > 0]
        return np.asarray(np.bincount(expressed, minlength=n_genes) / n_cells)

    @cached_property
    def tested(self) -> GeneCounts:
        """Counts of the genes that enough cells express."""
        columns = np.flatnonzero(self.detected >= self.min_detected)
        return replace(self, matrix=self.matrix[:, columns], genes=self.genes[columns])


@dataclass(frozen=True)
class PseudobulkData:
    """Labelled cells: their counts (shared by permutations of the labels), classes and donors.

    And their covariates, numbers and categoricals.
    """

    counts: GeneCounts
    codes: np.ndarray  # of the classes
    donors: np.ndarray  # names
    classes: list[str]
    limits: Limits
    covariates: pd.DataFrame

    @cached_property
    def n_cells(self) -> pd.DataFrame:
        """Number of cells, donors × classes."""
        labels = pd.Categorical.from_codes(self.codes, pd.Index(self.classes))
        table = pd.crosstab(self.donors, labels, dropna=False)
        table = table.reindex(columns=self.classes, fill_value=0)
        return table.rename_axis(index=None, columns=None)

    @cached_property
    def sampled(self) -> pd.DataFrame:
        """Samples to compare, donors × classes, true/false.

        Within donors all classes, of donors with enough cells of each. Between donors the class
        that most of a donor's cells are of, if these are enough. Or both: all classes, else that
        one.
        """
        enough = self.n_cells >= self.limits.min_cells
        complete = enough.all(axis=1)
        if self.limits.within:
            return enough[complete]
        most = self.n_cells.eq(self.n_cells.max(axis=1), axis=0) & enough
        if self.limits.design == "between":
            return most[most.sum(axis=1) == 1]
        return most.where(~complete, True)[complete | (most.sum(axis=1) == 1)]

    @property
    def n_complete(self) -> int:
        """Number of compared donors with all classes."""
        return int(self.sampled.all(axis=1).sum())

    @property
    def inside(self) -> PseudobulkData:
        """The same cells, compared within donors only."""
        return replace(self, limits=replace(self.limits, design="within"))

    @property
    def complete_donors(self) -> list[str]:
        """Donors that are compared, by name."""
        return [str(name) for name in self.sampled.index]

    @property
    def positive(self) -> np.ndarray:
        """Cells of the last class, true/false."""
        return np.asarray(self.codes == len(self.classes) - 1)

    @property
    def extremes(self) -> np.ndarray:
        """Positions of the cells of the first and the last class."""
        return np.flatnonzero(np.isin(self.codes, [0, len(self.classes) - 1]))

    def without(self, left_out: list[str]) -> PseudobulkData:
        """The cells of the other donors."""
        rows = np.flatnonzero(~np.isin(self.donors, left_out))
        codes, donors = self.codes[rows], self.donors[rows]
        counts = replace(self.counts, matrix=self.counts.matrix[rows])
        covariates = self.covariates.iloc[rows]
        return replace(self, counts=counts, codes=codes, donors=donors, covariates=covariates)

    def permuted(self, rng: np.random.Generator) -> PseudobulkData:
        """The same cells with the labels of each donor's cells in another order.

        Only those of like cells change places, where there are covariates.
        """
        codes = self.codes.copy()
        unit = pd.DataFrame(self.covariates.reset_index(drop=True)).assign(donor=self.donors)
        of_cell = unit.groupby(list(unit), observed=True).ngroup().to_numpy()
        for group in np.unique(of_cell):
            rows = np.flatnonzero(of_cell == group)
            codes[rows] = rng.permutation(codes[rows])
        return replace(self, codes=codes)

    def check(self) -> None:
        """Refuse covariates that the donors to compare cannot tell from the class or each other."""
        if self.covariates.empty or (self.sampled.sum() < self.limits.min_donors).any():
            return
        cells = np.isin(self.donors, self.complete_donors)
        values, donors = self.covariates[cells], self.donors[cells]
        covariates_of.check_values(values, donors, " that are compared")
        names = covariates_of.encoded(values).columns.get_level_values(0)
        design, of_cells = self.design, np.array(self.classes)[self.codes[cells]]
        if not design.within:
            by_donor = values.groupby(donors, observed=True).first().loc[design.donors]
            of_donors = self.sampled.apply(lambda row: " and ".join(row.index[row]), axis=1)
            covariates_of.check_model(design, names, by_donor, of_donors.to_numpy())
        inside = design.inside if isinstance(design, MixedDesign) else design
        if inside.within and np.any(inside.columns):
            covariates_of.check_model(inside, names, values, of_cells)

    @cached_property
    def design(self) -> Design:
        """Scaled sums per donor and class that are compared, of the tested genes."""
        sampled = self.sampled
        # donors with both classes only are compared within them
        within = bool(sampled.to_numpy().all())
        row, code = sampled.to_numpy().nonzero()
        samples = np.full((len(sampled) + 1, sampled.shape[1]), -1)
        samples[row, code] = np.arange(len(row))  # the last row stays: of other donors
        sample = samples[sampled.index.get_indexer(pd.Index(self.donors)), self.codes]
        cells, shape = np.flatnonzero(sample >= 0), (len(row), len(self.codes))
        places = sample[cells], cells
        members = sparse.csr_matrix((np.ones(len(cells)), places), shape=shape)
        total = (members @ self.counts.tested.matrix).toarray().astype(np.float64)
        donor, n_cells = sampled.index.to_numpy(object)[row], np.bincount(places[0])
        sums = total, donor, code, n_cells, size_factors(total)
        columns = covariates_of.encoded(self.covariates).to_numpy()
        means = (members @ columns) / n_cells[:, None]
        kind = MixedDesign if self.limits.design == "both" and not within else Design
        design = kind(*sums, self.classes, within, means)
        return design.scaled_by_unchanged_genes(self.limits.alpha)

    @cached_property
    def folds(self) -> list[list[str]]:
        """Donors to hold out, a fold at a time; empty if too few would be left for a signature."""
        names, least = self.complete_donors, self.limits.min_donors
        n = len(names)
        if n - 1 < least:
            return []
        n_folds = N_FOLDS if n - -(-n // N_FOLDS) >= least else n
        parts = GroupKFold(n_folds).split(names, groups=names)
        return [[names[i] for i in test] for _, test in parts]


class Source(NamedTuple):
    """Labelled cells, their places in the object, all donors, and notes for the record."""

    data: PseudobulkData
    rows: np.ndarray
    donors: pd.Series
    note: dict[str, Any]


def read(adata: AnnData, params: Mapping[str, Any], layer: str | None) -> Source:
    """Cells that have a class and a donor, with their counts, as the record of a verb says."""
    classes = [str(name) for name in params["classes"]]
    if not params.get("paired", True):  # of a record from before there was `design`
        params = {**params, "design": "between"}
    groupby, donor_key = str(params["groupby"]), str(params["donor_key"])
    codes = checks.labels(adata, groupby, classes, np.arange(adata.n_obs))
    donors = people.donors(adata, donor_key)
    matrix, note = noted_counts(adata, layer)
    rows = np.flatnonzero((codes >= 0) & donors.notna())
    names = {field.name for field in fields(Limits)} & set(params)
    limits = Limits(**{name: params[name] for name in names})
    keys = [str(key) for key in params.get("covariates", ())]
    covariates = covariates_of.read(adata, keys, donors, rows, limits.design)
    left_out = sorted({name for names in covariates.missing.values() for name in names})
    kept = ~np.isin(donors.iloc[rows].to_numpy(), left_out)
    rows, values = rows[kept], covariates.values[kept]
    excluded = [str(gene) for gene in params["exclude_genes"]]
    columns = np.flatnonzero(~adata.var_names.isin(excluded))
    genes, matrix = adata.var_names[columns], matrix[rows][:, columns]
    counts = GeneCounts(matrix, genes, limits.min_detected)
    of_cells = codes[rows], donors.to_numpy()[rows], classes
    data = PseudobulkData(counts, *of_cells, limits, values)
    notes: dict[str, Any] = dict(note)
    if keys:
        notes |= {"covariates_cancelled": covariates.cancelled, "n_donors_missing": len(left_out)}
        notes |= {"donors_missing": covariates.missing}
    return Source(data, rows, donors, notes)
