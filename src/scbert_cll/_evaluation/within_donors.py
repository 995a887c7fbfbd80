"""How well cells are ranked within donors, and models compared there with each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import pandas as pd

from scbert_cll._evaluation import bootstrap
from scbert_cll._evaluation.bootstrap import Ends, Limits, Resampling, interval_of
from scbert_cll._evaluation.metrics import ends, score, weighted
from scbert_cll._evaluation.ranks import pairs_within, ratio

METRICS: Final = ("macro_f1", "auroc_within")
WITHIN_DONORS: Final = "bootstrap over cells within donors"
_N_DRAWS: Final = 1000  # of an AUROC within donors


class Pairs(NamedTuple):
    """Pairs of a positive and a negative cell of one donor: those ranked right, and all.

    The former by each of several logits.
    """

    right: np.ndarray  # (donors, logits)
    n: np.ndarray  # (donors,)

    @classmethod
    def of(cls, logits: np.ndarray, positive: np.ndarray, donors: np.ndarray) -> Pairs:
        """Of logits (cells, any number of them)."""
        unit, y = np.unique(donors, return_inverse=True)[1], positive.astype(int)
        counted = [pairs_within(y, np.column_stack([-x, x]), unit) for x in logits.T]
        return cls(np.hstack([right for right, _ in counted]), counted[0][1][:, 0])

    @classmethod
    def stacked(cls, parts: Sequence[Pairs]) -> Pairs:
        """Donors of several folds, one below the other."""
        return cls(*map(np.concatenate, zip(*parts, strict=True)))

    def auroc(self) -> np.ndarray:
        """AUROC within donors, weighted by their number of pairs, of each logit."""
        return np.asarray(self.right.sum(axis=0) / self.n.sum())

    def less(self, other: Pairs) -> Pairs:
        """Differences of the two, donor by donor."""
        return Pairs(self.right - other.right, self.n)

    def interval(self, rng: np.random.Generator, ends: Ends | None) -> Limits:
        """Limits of the first logit's AUROC (of a difference without `ends`), 95 % over donors.

        As in a cross-validation: the range of two to four donors. NaN with a single one.
        """
        drawn = bootstrap.over_donors(len(self.n), _N_DRAWS, rng)
        if drawn is None:
            return Limits(np.nan, np.nan, bootstrap.NONE, 0, "")
        draws = ratio(drawn.weights @ self.right[:, 0], drawn.weights @ self.n)
        return interval_of(float(self.auroc()[0]), draws, drawn, ends)


class Compared(NamedTuple):
    """Estimates with intervals per model, and what the intervals resample."""

    table: pd.DataFrame  # model × (metric, metric_low, metric_high, ...) and n_cells
    unit: str
    draws: Mapping[str, Mapping[str, np.ndarray]]
    drawn: Resampling


class Difference(NamedTuple):
    """A paired difference of two models in one metric, and whether it can be told from none."""

    value: float
    low: float
    high: float

    @property
    def words(self) -> str:
        """Ahead, behind or neither, by the interval alone."""
        if np.isnan([self.value, self.low, self.high]).any():
            return "cannot be compared with"
        if self.low > 0:
            return "is ahead of"
        return "is behind" if self.high < 0 else "cannot be told apart from"


def of_donor_alone(y: np.ndarray, donors: np.ndarray, n_classes: int) -> np.ndarray:
    """Each donor's shares of the classes as the probabilities of its cells (n, classes)."""
    is_class = pd.DataFrame(np.eye(n_classes)[y])
    return is_class.groupby(np.asarray(donors)).transform("mean").to_numpy()


def compare(
    y: np.ndarray,
    donors: np.ndarray,
    proba: Mapping[str, np.ndarray],
    *,
    n_draws: int = 2000,
    seed: int = 0,
) -> Compared:
    """Macro-F1 and AUROC within donors of every model on the same cells of two classes.

    With 95 % intervals from the same draws.

    Parameters
    ----------
    y
        Codes of the two classes (n,).
    donors
        Donor of each cell (n,).
    proba
        Model → probabilities (n, 2).
    n_draws
        Bootstrap draws, the same for every model, so that differences are paired.
    seed
        Of the draws.

    Notes
    -----
    From five donors on, donors are drawn, which speaks of other patients. With fewer, cells are
    drawn within each donor and class, which speaks of other cells of these donors only; `unit` says
    which. AUROC within donors is the share of pairs of a positive and a negative cell of one donor
    that are ranked right, so that telling donors apart does not help.
    """
    double = {model: np.asarray(p, float) for model, p in proba.items()}
    exact = {model: p / p.sum(1, keepdims=True) for model, p in double.items()}
    draws: dict[str, dict[str, np.ndarray]] = {}
    if len(set(donors)) < bootstrap.FEWEST:
        drawn = _cells_within_donors(y, donors, n_draws, seed)
        for model, p in exact.items():
            draws[model] = _of_few_donors(y, donors, p, drawn.weights)
    else:
        drawn = bootstrap.resample(y, donors, 1, n_draws, seed)
        for model, p in exact.items():
            draws[model] = bootstrap.of_draws(METRICS, y, p[None], drawn)
    rows = {}
    for model, p in exact.items():
        row: dict[str, float] = {}
        for metric in METRICS:
            value = score(metric, y, p, ("0", "1"), donors=donors).value
            limits = interval_of(value, draws[model][metric], drawn, ends(metric, 2))
            low, high = limits.low, limits.high
            row |= {metric: value, f"{metric}_low": low, f"{metric}_high": high}
        rows[model] = row | {"n_cells": float(len(y))}
    table = pd.DataFrame.from_dict(rows, orient="index")
    return Compared(table, drawn.interval, draws, drawn)


def difference(compared: Compared, model: str, reference: str, metric: str) -> Difference:
    """One model minus another, with a 95 % interval of the paired difference."""
    estimates = compared.table[metric].astype(float)
    value = float(estimates[model] - estimates[reference])
    draws = compared.draws[model][metric] - compared.draws[reference][metric]
    limits = interval_of(value, draws, compared.drawn, None)
    return Difference(value, limits.low, limits.high)


def _cells_within_donors(y: np.ndarray, donors: np.ndarray, n_draws: int, seed: int) -> Resampling:
    """How often each cell is drawn, with replacement among the cells of its donor and class."""
    rng = np.random.default_rng(seed)
    stratum = pd.MultiIndex.from_arrays([np.asarray(donors), y]).factorize(sort=True)[0]
    weights = np.zeros((n_draws, len(y)), dtype=np.uint16)
    for code in np.unique(stratum):
        at = np.flatnonzero(stratum == code)
        shares = np.full(at.size, 1 / at.size)
        weights[:, at] = rng.multinomial(at.size, shares, n_draws)
    fewest = int(np.unique(y, return_counts=True)[1].min())
    note = "speaks of other cells of these donors, not of other patients"
    once = np.ones((n_draws, 1))
    return Resampling(WITHIN_DONORS, np.arange(len(y)), weights, once, note, fewest)


def _of_few_donors(
    y: np.ndarray, donors: np.ndarray, proba: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Metrics of drawn cells (draws,).

    The AUROC of each donor is weighted by its pairs, of which every draw has as many.
    """
    weights = weights.astype(float)
    right, pairs = np.zeros(len(weights)), 0
    for donor in np.unique(donors):
        at = np.flatnonzero(donors == donor)
        n = int((y[at] == 1).sum()) * int((y[at] == 0).sum())
        if n:
            cells = np.arange(at.size)
            right += n * weighted(["auroc"], y[at], proba[at], cells, weights[:, at])[0]
            pairs += n
    f1 = weighted(["macro_f1"], y, proba, np.arange(len(y)), weights)[0]
    within = right / pairs if pairs else np.full(len(weights), np.nan)
    return {"macro_f1": f1, "auroc_within": within}
