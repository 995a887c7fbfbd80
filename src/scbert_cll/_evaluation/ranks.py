"""Metrics of sorted cells, for many weightings at once: ranks, and calibration in bins."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.stats import rankdata

N_BINS = 15
# Up to so many units, running sums are kept per unit and a draw is a product of matrices; beyond,
# each draw is summed anew.
_FEW_UNITS = 64
_CHUNK = 400_000  # cells × draws at a time: 3 MB an array, which a cache holds


def ratio(part: np.ndarray, whole: np.ndarray, nothing: float = np.nan) -> np.ndarray:
    """Part of whole, and `nothing` where the whole is 0."""
    part, whole = np.broadcast_arrays(np.asarray(part, float), np.asarray(whole, float))
    quotient = np.full(part.shape, nothing, dtype=float)
    np.divide(part, whole, out=quotient, where=whole != 0)
    return quotient


def equal_mass_bins(confidence: np.ndarray, n_bins: int = N_BINS) -> np.ndarray:
    """Bin of each probability: by rank, as many in each.

    Equal ones share the bin in which the middle of them falls.
    """
    _, place, count = np.unique(confidence, return_inverse=True, return_counts=True)
    middle = np.cumsum(count) - count / 2
    return np.asarray(np.floor(n_bins * middle / len(confidence)).astype(int)[place])


def pairs_within(
    y: np.ndarray, proba: np.ndarray, unit: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Correctly ranked pairs of a cell of a class and another one of the same unit, and all pairs.

    Ties count half. Both are (units, classes); of two classes the last one only.
    """
    codes = _ranked_classes(proba)
    right, pairs = np.zeros((2, unit.max() + 1, len(codes)))
    for u in range(unit.max() + 1):
        cells = np.flatnonzero(unit == u)
        for j, code in enumerate(codes):
            hit = y[cells] == code
            n = hit.sum()
            pairs[u, j] = n * (len(cells) - n)
            if pairs[u, j]:
                right[u, j] = rankdata(proba[cells, code])[hit].sum() - n * (n + 1) / 2
    return right, pairs


def _ranked_classes(proba: np.ndarray) -> list[int]:
    """Classes that are ranked against the rest: the last of two, or all."""
    return [1] if proba.shape[1] == 2 else list(range(proba.shape[1]))


def ranked(
    y: np.ndarray, proba: np.ndarray, unit: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """AUROC, AUROC within units and average precision by name, each (draws,).

    Of the last of two classes, else the mean of each class against the rest.
    """
    codes = _ranked_classes(proba)
    sides = [_one_against_rest(proba[:, k], y == k, unit, weights) for k in codes]
    area, precision = np.mean(sides, axis=0)
    within = area
    if weights.shape[1] < len(y):  # units are donors, not cells of one
        right, pairs = pairs_within(y, proba, unit)
        within = ratio(weights @ right, weights @ pairs).mean(1)
    return {"auroc": area, "auroc_within": within, "auprc": precision}


def _one_against_rest(
    value: np.ndarray, hit: np.ndarray, unit: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """AUROC and average precision of a score (2, draws).

    From the highest value down, taken at the values that some positive has.
    """
    n_units = weights.shape[1]
    order = np.argsort(-value, kind="stable")
    unit, hit = unit[order], hit[order]
    starts, ends = _runs(value[order])
    some = np.diff(np.concatenate([[0], np.cumsum(hit)[ends]])) > 0
    starts, ends = starts[some], ends[some]
    tp, fp = (RunningSums(unit, number, n_units, ends) for number in (hit, ~hit))
    # negatives above the run of equal values
    above = RunningSums(unit, ~hit, n_units, starts - 1)
    by_unit = (np.bincount(unit, one, minlength=n_units) for one in (hit, ~hit))
    n_hit, n_miss = (weights @ n for n in by_unit)
    area, precision = np.zeros((2, len(weights)))
    for draws in _chunks(len(weights), len(unit)):
        t, f, a = tp(weights[draws]), fp(weights[draws]), above(weights[draws])
        gained = np.diff(t, axis=1, prepend=0)
        lost = np.einsum("bk,bk->b", gained, (f + a) / 2)
        area[draws] = n_hit[draws] * n_miss[draws] - lost
        precision[draws] = np.einsum("bk,bk->b", gained, ratio(t, t + f, nothing=0))
    both = np.stack([ratio(area, n_hit * n_miss), ratio(precision, n_hit)])
    return np.where((n_hit == 0) | (n_miss == 0), np.nan, both)


def calibration_error(
    confidence: np.ndarray, right: np.ndarray, unit: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Expected calibration error of each draw (draws,), in bins as of `equal_mass_bins`."""
    order = np.argsort(confidence, kind="stable")
    _, ends = _runs(confidence[order])
    numbers = (np.ones(len(confidence)), (right - confidence)[order])
    unit, n_units = unit[order], weights.shape[1]
    mass, error = (RunningSums(unit, one, n_units, ends) for one in numbers)
    errors = np.full(len(weights), np.nan)
    for draws in _chunks(len(weights), len(confidence)):
        upto = mass(weights[draws])
        middle = N_BINS * (upto - np.diff(upto, axis=1, prepend=0) / 2)
        edges = upto[:, -1:] * np.arange(1, N_BINS)
        # the first run of equal values of each bin but the first; whole numbers, so that no edge is
        # a matter of rounding
        first = np.stack(list(map(np.searchsorted, middle, edges)))
        bounds = ((0, 0), (0, len(ends)))
        at = np.pad(first, ((0, 0), (1, 1)), constant_values=bounds)
        sums = np.pad(error(weights[draws]), ((0, 0), (1, 0)))
        gaps = np.abs(np.diff(np.take_along_axis(sums, at, axis=1), axis=1)).sum(1)
        errors[draws] = ratio(gaps, upto[:, -1])
    return errors


class RunningSums:
    """Running sums of a number per sorted cell, weighted by unit, at some positions.

    (draws, units) -> (draws, positions). Position -1 is before the first cell. With few units the
    sums of each are kept, and a weighting is a product of matrices; with many (a bootstrap over
    cells) the weighted numbers are summed anew.
    """

    def __init__(self, unit: np.ndarray, number: np.ndarray, n_units: int, at: np.ndarray) -> None:
        self.unit, self.number, self.at = unit, np.asarray(number, dtype=float), at
        self.by_unit: np.ndarray | None = None
        if n_units <= _FEW_UNITS:
            sums = np.zeros((n_units, len(unit)))
            sums[unit, np.arange(len(unit))] = self.number
            self.by_unit = self._at(np.cumsum(sums, axis=1, out=sums))

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        if self.by_unit is not None:
            return np.asarray(weights @ self.by_unit)
        return self._at(np.cumsum(weights[:, self.unit] * self.number, axis=1))

    def _at(self, sums: np.ndarray) -> np.ndarray:
        """The sums at the positions, 0 before the first cell."""
        chosen = sums[:, self.at]
        chosen[:, self.at < 0] = 0
        return chosen


def _runs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last position of each run of equal values."""
    new = np.flatnonzero(values[1:] != values[:-1])
    return np.concatenate([[0], new + 1]), np.concatenate([new, [len(values) - 1]])


def _chunks(n_draws: int, n_cells: int) -> Iterator[slice]:
    """Draws in portions that bound the memory."""
    step = max(_CHUNK // max(n_cells, 1), 1)
    return (slice(start, start + step) for start in range(0, n_draws, step))
