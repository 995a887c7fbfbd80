"""What a signature is found in: cells with a class and a donor, and the limits they must meet."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import chain, zip_longest
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from pandas.api import types
from scipy import sparse
from sklearn.model_selection import GroupKFold

from scbert_cll._checks import adata as checks
from scbert_cll._checks import people
from scbert_cll._checks.counts import noted_counts
from scbert_cll._record import NOTHING
from scbert_cll._signature import covariates as covariates_of
from scbert_cll._signature import slope
from scbert_cll._signature.both import MixedDesign
from scbert_cll._signature.design import Design, size_factors

N_FOLDS = 4
FEWEST = 2  # donors that have a variance, and that cannot spare one


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

    And their covariates, numbers and categoricals. With a `number` of each cell the slope over it
    is asked for: then classes are groups of like cells within donors, or all of a donor's cells.
    """

    counts: GeneCounts
    codes: np.ndarray  # of the classes
    donors: np.ndarray  # names
    classes: list[str]
    limits: Limits
    covariates: pd.DataFrame
    samples: np.ndarray  # names, within donors; the donors' where each has one
    number: np.ndarray | None = None

    @cached_property
    def n_cells(self) -> pd.DataFrame:
        """Number of cells, donors × classes."""
        labels = pd.Categorical.from_codes(self.codes, pd.Index(self.classes))
        table = pd.crosstab(self.donors, labels, dropna=False)
        table = table.reindex(columns=self.classes, fill_value=0)
        return table.rename_axis(index=None, columns=None)

    @cached_property
    def _sums(self) -> pd.DataFrame:
        """Donor, sample and code of the sums with cells enough.

        Where a donor has samples of all classes, others of its tell more of samples than of
        classes; they are left out unless donors are compared.
        """
        cells = pd.DataFrame({"donor": self.donors, "code": self.codes, "sample": self.samples})
        size = cells.groupby(list(cells)).size()
        sums = size.index[size >= self.limits.min_cells].to_frame(index=False)
        if self.limits.design == "between":
            return sums
        whole = sums.groupby(["donor", "sample"])["code"].transform("size") == len(self.classes)
        return sums[whole | ~whole.groupby(sums["donor"]).transform("any")]

    @cached_property
    def sampled(self) -> pd.DataFrame:
        """Samples to compare, donors × classes, true/false.

        Within donors all classes, of donors with enough cells of each. Between donors the class
        that most of a donor's cells are of, if these are enough. Or both: all classes, else that
        one.
        """
        units = self._sums[["donor", "code"]].drop_duplicates()
        enough = pd.crosstab(units["donor"], units["code"]) > 0
        enough = enough.reindex(self.n_cells.index, fill_value=False)
        enough = enough.reindex(columns=range(len(self.classes)), fill_value=False)
        enough = enough.set_axis(self.classes, axis=1)
        complete = enough.all(axis=1) if self.number is None else enough.any(axis=1)
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
    def too_few(self) -> bool:
        """Whether a class has fewer compared donors than are needed; of a number, all together."""
        return self._few(self.sampled)

    def _few(self, sampled: pd.DataFrame) -> bool:
        n = sampled.sum() if self.number is None else pd.Series(len(sampled))
        return bool((n < self.limits.min_donors).any())

    @property
    def by_donor(self) -> pd.Series:
        """Mean number of the cells of each compared donor."""
        return pd.Series(self.number).groupby(self.donors).mean()[self.sampled.index]

    @property
    def between(self) -> PseudobulkData:
        """The same cells, compared between donors without covariates."""
        none = pd.DataFrame(index=self.covariates.index)
        other = replace(self, limits=replace(self.limits, design="between"), covariates=none)
        return other if self.number is None else other.grouped(self.number)

    def grouped(self, number: np.ndarray) -> PseudobulkData:
        """The same cells in groups of like numbers within donors, or all of a donor's cells."""
        if not self.limits.within:
            codes = np.zeros_like(self.codes)
            return replace(self, number=number, codes=codes, classes=[slope.ALL])
        codes = slope.groups(number, self.donors, self.samples, self.limits.min_cells)
        classes = [str(1 + i) for i in range(max(codes.max(initial=0), 0) + 1)]
        return replace(self, number=number, codes=codes, classes=classes)

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
        """Positions of the cells of the first and the last class.

        Where donors are compared, those of the samples to compare.
        """
        rows = np.flatnonzero(np.isin(self.codes, [0, len(self.classes) - 1]))
        if self.limits.within:
            return rows
        place = self.sampled.index.get_indexer(pd.Index(self.donors[rows]))
        is_compared = self.sampled.to_numpy()[place, self.codes[rows]] & (place >= 0)
        return np.asarray(rows[is_compared])

    @property
    def peers(self) -> np.ndarray:
        """Among whose cells each is ranked: its donor's, or those of all donors of one class."""
        alone = self.sampled.index[~self.sampled.all(axis=1)]
        return np.where(np.isin(self.donors, alone), "", self.donors)

    def enough(self, left_out: Collection[str] = ()) -> bool:
        """Whether each class has so many donors, without some.

        And two have both, where both parts are joined.
        """
        sampled = self.sampled[~self.sampled.index.isin(left_out)]
        if self._few(sampled):
            return False
        return bool(self.limits.design != "both" or sampled.all(axis=1).sum() >= FEWEST)

    def without(self, left_out: list[str]) -> PseudobulkData:
        """The cells of the other donors."""
        rows = np.flatnonzero(~np.isin(self.donors, left_out))
        codes, donors = self.codes[rows], self.donors[rows]
        counts = replace(self.counts, matrix=self.counts.matrix[rows])
        of_cells: dict[str, Any] = {"codes": codes, "donors": donors}
        of_cells |= {"covariates": self.covariates.iloc[rows], "samples": self.samples[rows]}
        of_cells["number"] = None if self.number is None else self.number[rows]
        return replace(self, counts=counts, **of_cells)

    def check(self) -> None:
        """Refuse covariates that the donors to compare cannot tell from the class or each other."""
        if self.covariates.empty or self.too_few:
            return
        if self.design.df < self.limits.min_donors - 1:
            return  # which is said of the signature
        cells = np.isin(self.donors, self.complete_donors)
        values, donors = self.covariates[cells], self.donors[cells]
        covariates_of.check_values(values, donors, " that are compared")
        names = covariates_of.encoded(values).columns.get_level_values(0)
        design, of_cells = self.design, np.array(self.classes)[self.codes[cells]]
        if self.number is not None:
            of_cells = pd.Series(self.number[cells], values.index)
        if not design.within:
            by_donor = values.groupby(donors, observed=True).first().loc[design.donors]
            of_donors = self.sampled.apply(lambda row: " and ".join(row.index[row]), axis=1)
            among = of_donors.to_numpy() if self.number is None else self.by_donor
            covariates_of.check_model(design, names, by_donor, among)
        inside = design.inside if isinstance(design, MixedDesign) else design
        if inside.within and np.any(inside.columns):
            covariates_of.check_model(inside, names, values, of_cells)

    @cached_property
    def design(self) -> Design:
        """Scaled sums per donor and class that are compared, of the tested genes."""
        sampled = self.sampled
        # donors with both classes only are compared within them
        within = self.limits.within or bool(sampled.to_numpy().all() and self.number is None)
        row, code = sampled.to_numpy().nonzero()
        units = pd.MultiIndex.from_arrays([sampled.index[row], code])
        sums = self._sums
        unit = units.get_indexer(pd.MultiIndex.from_frame(sums[["donor", "code"]]))
        sums, unit = sums[unit >= 0], unit[unit >= 0]
        of_cells = pd.MultiIndex.from_arrays([self.donors, self.codes, self.samples])
        sample = pd.MultiIndex.from_frame(sums).get_indexer(of_cells)
        cells, shape = np.flatnonzero(sample >= 0), (len(sums), len(self.codes))
        places = sample[cells], cells
        members = sparse.csr_matrix((np.ones(len(cells)), places), shape=shape)
        total = (members @ self.counts.tested.matrix).toarray().astype(np.float64)
        n_cells = np.bincount(places[0])
        donor, code = sums["donor"].to_numpy(object), sums["code"].to_numpy()
        given = total, donor, code, n_cells, size_factors(total)
        columns = covariates_of.encoded(self.covariates).to_numpy()
        means = (members @ columns) / n_cells[:, None]
        level = None if self.number is None else (members @ self.number) / n_cells
        kind = MixedDesign if self.limits.design == "both" and not within else Design
        design = kind(*given, self.classes, within, means, unit, level)
        return design.scaled_by_unchanged_genes(self.limits.alpha)

    @cached_property
    def spared(self) -> list[str]:
        """Donors that can be left out, one at a time, and leave enough for a signature."""
        return [name for name in self.complete_donors if self._can_spare([name])]

    def _can_spare(self, donors: list[str]) -> bool:
        if not self.enough(donors):
            return False
        rest = self.design.taken(~np.isin(self.design.donor, donors))
        inside = rest.inside if isinstance(rest, MixedDesign) else rest
        estimable = rest.fit.estimable and inside.fit.estimable
        return bool(estimable and rest.df >= self.limits.min_donors - 1)

    @cached_property
    def folds(self) -> list[list[str]]:
        """Donors to hold out, a fold at a time; empty if too few would be left for a signature.

        Each fold has donors of both classes, or of each.
        """
        sampled = self.sampled.loc[self.spared]
        complete = sampled.all(axis=1)
        names = sampled.index.astype(str).to_numpy(object)
        alone = [names[sampled[key] & ~complete] for key in sampled]
        fewest = min(map(len, alone))
        kinds = [(names[complete], int(complete.sum())), *((part, fewest) for part in alone)]
        kinds = [(part, n) for part, n in kinds if n >= FEWEST]
        for n_folds in [N_FOLDS, *sorted(n for _, n in kinds if n > N_FOLDS)] if kinds else []:
            parts = [
                [part[test] for _, test in GroupKFold(min(n, n_folds)).split(part, groups=part)]
                for part, n in kinds
            ]
            folds = [[*chain(*fold)] for fold in zip_longest(*parts, fillvalue=())]
            if all(map(self._can_spare, folds)):
                return folds
        return []


def classes_of(adata: AnnData, groupby: str) -> list[str]:
    """The classes of a column, in order; numbers that are no codes of classes are refused."""
    column = checks.obs_column(adata, groupby)
    n, where = column.nunique(), f"adata.obs[{groupby!r}]"
    if types.is_numeric_dtype(column) and n > slope.MOST_CODES:
        raise ValueError(
            f"{where} holds {n} different numbers, and classes are categories. Cut it at values "
            f"fixed beforehand: {where} = pd.cut({where}, bins=[...]). The slope of genes over "
            "numbers is in tl.signature."
        )
    return checks.classes(column, groupby)


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
    donors = people.donors(adata, donor_key)
    codes, number = np.zeros(adata.n_obs, dtype=np.int64), np.zeros(adata.n_obs)
    if classes:
        codes = checks.labels(adata, groupby, classes, np.arange(adata.n_obs))
    else:
        number = slope.numbers(adata, groupby, donors, str(params["design"]))
    matrix, note = noted_counts(adata, layer)
    rows = np.flatnonzero((codes >= 0) & np.isfinite(number) & donors.notna())
    names = {field.name for field in fields(Limits)} & set(params)
    limits = Limits(**{name: params[name] for name in names})
    keys = [str(key) for key in params.get("covariates", ())]
    covariates = covariates_of.read(adata, keys, donors, rows, limits.design)
    left_out = sorted({name for names in covariates.missing.values() for name in names})
    complete = ~np.isin(donors.iloc[rows].to_numpy(), left_out)
    rows, values = rows[complete], covariates.values[complete]
    excluded = [str(gene) for gene in params["exclude_genes"]]
    columns = np.flatnonzero(~adata.var_names.isin(excluded))
    genes, matrix = adata.var_names[columns], matrix[rows][:, columns]
    counts = GeneCounts(matrix, genes, limits.min_detected)
    of_cells = codes[rows], donors.to_numpy()[rows], classes
    key = str(params.get("sample_key", NOTHING))
    samples = donors if key == NOTHING else people.class_names(checks.obs_column(adata, key))
    data = PseudobulkData(counts, *of_cells, limits, values, samples.to_numpy()[rows])
    notes: dict[str, Any] = dict(note)
    if not classes:
        data, notes["n_cells_missing"] = data.grouped(number[rows]), int(np.isnan(number).sum())
        left = set(data.donors) - set(data.sampled.index)
        notes["donors_not_compared"] = sorted(str(name) for name in left)
    if keys:
        notes |= {"covariates_cancelled": covariates.cancelled, "n_donors_missing": len(left_out)}
        notes |= {"donors_missing": covariates.missing}
    return Source(data, rows, donors, notes)
