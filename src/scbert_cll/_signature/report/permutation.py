"""The same cells under other labels: of cells within donors, and of whole donors between them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import exp, lgamma
from typing import Final

import numpy as np
import pandas as pd

from scbert_cll._checks.words import listed
from scbert_cll._signature.covariates import encoded
from scbert_cll._signature.data import GeneCounts, PseudobulkData
from scbert_cll._signature.design import PRIOR_COUNT
from scbert_cll._signature.moderated import Fit

LEAST: Final = 20  # arrangements, with which p can be 0.05
_MOST_STRATA: Final = 10  # values of a covariate, within which labels of cells change places
_DIGITS: Final = 9
_MANY: Final = 1_000_000


@dataclass(frozen=True)
class Permuter:
    """Cells and donors that may change labels, and between which of them these change places.

    A donor of both classes permutes its cells, and one of a single class changes as a whole: then
    all its cells get the other class. Between donors the strata are those of covariates. Where
    these are continuous or leave too few arrangements, residuals beside the covariates change
    places (Freedman and Lane 1983, doi:10.1080/07350015.1983.10509354). What they would be added
    back to is in the span of the covariates, which are in the model again. So nothing is, and a
    donor gets the label and the covariates of another one instead.
    """

    data: PseudobulkData
    like: np.ndarray  # group of each cell, whose labels change places in it; or −1
    donors: pd.Index  # of one class
    stratum: np.ndarray  # of each of them
    kind: np.ndarray  # its label, or number of its label and covariates together
    covariates: np.ndarray | None  # that go with the label, of each of them
    scheme: str  # in words

    @classmethod
    def of(cls, data: PseudobulkData) -> Permuter:
        """Arrangements within donors of both classes, and between those of one."""
        complete = data.sampled.all(axis=1)
        like = _like_cells(data, complete)
        donors = data.sampled.index[~complete]
        words = [_within_words(data)] if complete.any() else []
        if not len(donors):
            nobody = np.empty(0, np.int64)
            return cls(data, like, donors, nobody, nobody, None, words[0])
        words.append("labels of whole donors change places")
        label = data.sampled.loc[donors].to_numpy().argmax(axis=1)
        names, columns = pd.Index(data.design.donors), data.design.columns[:, 1:]
        columns = columns[names.get_indexer(donors)].round(_DIGITS)
        stratum = _number(columns)
        strata = cls(data, like, donors, stratum, label, None, " and ".join(words))
        if not columns.shape[1]:
            return strata
        keys = listed(data.covariates.columns)
        levels = max(len(np.unique(column)) for column in columns.T) <= 2
        if levels and strata.between >= LEAST:
            return replace(strata, scheme=f"{strata.scheme} within strata of {keys}")
        kind = _number(np.column_stack([label, columns]))
        words[-1] = f"residuals beside {keys} change places between donors (Freedman and Lane)"
        one = np.zeros_like(stratum)
        return cls(data, like, donors, one, kind, columns, " and ".join(words))

    @cached_property
    def between(self) -> float:
        """Number of arrangements of the donors; one and its opposite, where both are, are one."""
        return _n_arrangements(self.stratum, self.kind) / (1 + self._mirrored)

    @cached_property
    def n_possible(self) -> float:
        """Number of all arrangements."""
        of_cells = self.like >= 0
        return self.between * _n_arrangements(self.like[of_cells], self.data.codes[of_cells])

    @property
    def facts(self) -> dict[str, str | float]:
        """What is permuted, and in how many ways."""
        return {"scheme": self.scheme, "n_possible": self.n_possible}

    @property
    def words(self) -> str:
        """The same for a reader, where whole donors are permuted."""
        n = self.n_possible
        ways = f"{n:,.0f}" if n < _MANY else f"more than {_MANY:,}"
        return f"{self.scheme} ({ways} arrangements)" if len(self.donors) else ""

    @cached_property
    def _mirrored(self) -> bool:
        """Whether the opposite of every arrangement is one, with the same |t|."""
        if self.covariates is not None or (self.like >= 0).any():
            return False
        return bool((pd.Series(self.kind).groupby(self.stratum).mean() == 0.5).all())

    def draw(self, n: int, rng: np.random.Generator) -> list[PseudobulkData]:
        """Different arrangements, none of them as it is; all others where there are no more."""
        runs: list[PseudobulkData] = []
        seen = {self._key(self.kind, self.data.codes)}
        while len(runs) < min(n, self.n_possible - 1):
            codes, giver = self.data.codes.copy(), np.arange(len(self.donors))
            for group in np.unique(self.like[self.like >= 0]):
                rows = np.flatnonzero(self.like == group)
                codes[rows] = rng.permutation(codes[rows])
            for stratum in np.unique(self.stratum):
                rows = np.flatnonzero(self.stratum == stratum)
                giver[rows] = rng.permutation(rows)
            kind = self.kind[giver]
            if self._mirrored and kind[0] != self.kind[0]:
                kind = 1 - kind
            key = self._key(kind, codes)
            if key not in seen:
                seen.add(key)
                runs.append(self._with(codes, kind, giver))
        return runs

    @cached_property
    def _cells(self) -> PseudobulkData:
        """What gets other labels: residuals, where covariates go with these."""
        return self.data if self.covariates is None else _residuals(self.data)

    @staticmethod
    def _key(kind: np.ndarray, codes: np.ndarray) -> tuple[bytes, int]:
        return kind.tobytes(), hash(codes.tobytes())

    def _with(self, codes: np.ndarray, kind: np.ndarray, giver: np.ndarray) -> PseudobulkData:
        """The cells with other labels, and covariates that go with them."""
        data, donor = self._cells, self.donors.get_indexer(pd.Index(self.data.donors))
        rows = np.flatnonzero(donor >= 0)
        if self.covariates is None:
            changed = kind != self.kind
        else:
            label = self.data.sampled.loc[self.donors].to_numpy().argmax(axis=1)
            changed = label[giver] != label
            values = encoded(data.covariates).to_numpy(copy=True)
            values[rows] = self.covariates[giver][donor[rows]]
            data = replace(data, covariates=pd.DataFrame(values))
        rows = rows[changed[donor[rows]]]
        codes[rows] = len(data.classes) - 1 - codes[rows]
        return replace(data, codes=codes)


def too_fine(data: PseudobulkData) -> list[str]:
    """Covariates of which too few cells of a donor of both classes are alike."""
    complete = data.sampled.index[data.sampled.all(axis=1)]
    values = data.covariates[np.isin(data.donors, complete)]
    donors = data.donors[np.isin(data.donors, complete)]
    return [
        str(key)
        for key, column in values.items()
        if column.nunique() > _MOST_STRATA and (column.groupby(donors).nunique() > 1).any()
    ]


def _like_cells(data: PseudobulkData, complete: pd.Series) -> np.ndarray:
    """Group of each cell of a donor's sample by its covariates; −1 of donors that change whole."""
    unit = pd.DataFrame(data.covariates.reset_index(drop=True))
    unit = unit.assign(donor=data.donors, sample=data.samples)
    group = unit.groupby(list(unit), observed=True).ngroup().to_numpy()
    inside = data.limits.within | np.isin(data.donors, complete.index[complete])
    return np.where(inside, group, -1)


def _within_words(data: PseudobulkData) -> str:
    several = bool((data.samples != data.donors).any())
    words = f"labels of cells change places within {'samples' if several else 'donors'}"
    keys = data.covariates.columns
    return f"{words} among those alike in {listed(keys)}" if len(keys) else words


def _number(rows: np.ndarray) -> np.ndarray:
    """Number of each row among the different ones."""
    return np.unique(rows, axis=0, return_inverse=True)[1].reshape(len(rows))


def _n_arrangements(group: np.ndarray, kind: np.ndarray) -> float:
    """In how many ways kinds can change places within groups."""
    table = pd.crosstab(group, kind).to_numpy()
    log = sum(lgamma(n + 1) for n in table.sum(axis=1)) - sum(lgamma(n + 1) for n in table.flat)
    return float(round(exp(log))) if log < 30 else float("inf")


def _residuals(data: PseudobulkData) -> PseudobulkData:
    """Counts of each donor less what the covariates explain of them between donors, in log2."""
    design = data.design
    log = pd.DataFrame(design.log).groupby(design.names, sort=False).mean().to_numpy()
    columns = design.columns[:, 1:]
    explained = (columns - columns.mean(axis=0)) @ Fit.of(log, columns).coefficients
    was, rest = (np.maximum(2.0**value - PRIOR_COUNT, 0.0) for value in (log, log - explained))
    factor = np.divide(rest, was, out=np.ones_like(was), where=was > 0)
    factor = np.vstack([factor, np.ones(factor.shape[1])]).astype(np.float32)  # of other donors
    tested = data.counts.tested
    matrix = tested.matrix.copy()
    donor = pd.Index(design.donors).get_indexer(pd.Index(data.donors))
    matrix.data = matrix.data * factor[np.repeat(donor, np.diff(matrix.indptr)), matrix.indices]
    return replace(data, counts=GeneCounts(matrix, tested.genes, 0.0))
