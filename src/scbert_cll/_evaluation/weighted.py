"""The same metrics for thousands of weightings of the cells at once, as a bootstrap needs them.

A bootstrap draw is a weight per unit (how often a donor, or a cell, was drawn). Metrics of counts
and means come from one small table per unit; those of ranks from running sums over the cells sorted
once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from scbert_cll._evaluation.metrics import (
    N_BINS,
    cell_brier,
    cell_log_loss,
    certainty,
    pairs_within,
)

# Up to so many units, running sums are kept per unit and a draw is a product of matrices; beyond,
# each draw is summed anew.
_FEW_UNITS = 64
_CHUNK = 400_000  # cells × draws at a time: 3 MB an array, which a cache holds


def weighted(
    names: Sequence[str], y: np.ndarray, proba: np.ndarray, unit: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Metrics of the cells, each cell as often as its unit's weight says.

    A draw without any cell of a class that the cells have is undefined (NaN) for macro_f1,
    balanced_accuracy, auroc, auroc_within and auprc, and with one class only for mcc and
    kappa_quadratic: it is no smaller sample of the same question, but another question.

    Parameters
    ----------
    names
        Metrics; also ``precision|k`` and ``recall|k`` of the class with code k.
    y
        Codes of the classes (n,).
    proba
        Probabilities (n, classes).
    unit
        Unit of each cell (n,), 0 to the number of units.
    weights
        Whole numbers (draws, units).

    Returns
    -------
    (metrics, draws)
    """
    found = dict.fromkeys(names, np.empty(0))
    confusion = weights @ _per_unit(y, proba, unit, weights.shape[1])  # (draws, classes, classes)
    confusion = confusion.reshape(len(weights), proba.shape[1], proba.shape[1])
    for name in names:
        word, _, code = name.partition("|")
        if word in _OF_COUNTS:
            found[name] = np.where(
                _same_question(word, y, confusion), _OF_COUNTS[word](confusion), np.nan
            )
        elif word in _OF_CLASS:
            found[name] = _OF_CLASS[word](confusion, int(code))
        elif word in _OF_CELLS:
            found[name] = _mean(_OF_CELLS[word](y, proba), unit, weights)
        elif word == "ece":
            found[name] = _ece(*certainty(y, proba), unit, weights)
    if {"auroc", "auroc_within", "auprc"} & set(names):
        area, precision = _ranked(y, proba, unit, weights)
        apart = weights.shape[1] < len(y)  # units are donors, not cells of one
        all_three = {"auroc": area, "auprc": precision}
        all_three["auroc_within"] = _within(y, proba, unit, weights) if apart else area
        found |= {name: values for name, values in all_three.items() if name in found}
    return np.stack([found[name] for name in names])


def _per_unit(y: np.ndarray, proba: np.ndarray, unit: np.ndarray, n_units: int) -> np.ndarray:
    """Cells of each unit by true and called class (units, classes × classes)."""
    k = proba.shape[1]
    cell = (unit * k + y) * k + proba.argmax(1)
    return np.bincount(cell, minlength=n_units * k * k).reshape(n_units, k * k).astype(float)


def _mean(values: np.ndarray, unit: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean of a number per cell."""
    sums = np.bincount(unit, values, minlength=weights.shape[1])
    return np.asarray(
        _ratio(weights @ sums, weights @ np.bincount(unit, minlength=weights.shape[1]))
    )


def _ratio(part: np.ndarray, whole: np.ndarray, nothing: float = np.nan) -> np.ndarray:
    """Part of whole, and `nothing` where the whole is 0."""
    part, whole = np.broadcast_arrays(np.asarray(part, dtype=float), np.asarray(whole, dtype=float))
    return np.asarray(
        np.divide(part, whole, out=np.full(part.shape, nothing, dtype=float), where=whole != 0)
    )


def _accuracy(confusion: np.ndarray) -> np.ndarray:
    return _ratio(_hits(confusion).sum(1), confusion.sum((1, 2)))


def _macro_f1(confusion: np.ndarray) -> np.ndarray:
    f1 = _ratio(2 * _hits(confusion), confusion.sum(1) + confusion.sum(2), nothing=0)
    return np.asarray(f1.mean(1))


def _balanced_accuracy(confusion: np.ndarray) -> np.ndarray:
    true = confusion.sum(2)
    return _ratio(_ratio(_hits(confusion), true, nothing=0).sum(1), (true > 0).sum(1))


def _mcc(confusion: np.ndarray) -> np.ndarray:
    """Gorodkin's correlation for any number of classes."""
    n, true, called = confusion.sum((1, 2)), confusion.sum(2), confusion.sum(1)
    spread = np.sqrt(n**2 - (true**2).sum(1)) * np.sqrt(n**2 - (called**2).sum(1))
    together = n * _hits(confusion).sum(1) - (true * called).sum(1)
    return _ratio(together, spread, nothing=0)


def _kappa_quadratic(confusion: np.ndarray) -> np.ndarray:
    codes = np.arange(confusion.shape[1])
    far = (codes[:, None] - codes) ** 2
    n, true, called = confusion.sum((1, 2)), confusion.sum(2), confusion.sum(1)
    expected = _ratio(np.einsum("bi,bj,ij->b", true, called, far), n)
    return np.asarray(1 - _ratio(np.einsum("bij,ij->b", confusion, far), expected))


def _hits(confusion: np.ndarray) -> np.ndarray:
    return np.asarray(np.einsum("bii->bi", confusion))


def _same_question(name: str, y: np.ndarray, confusion: np.ndarray) -> np.ndarray:
    """Draws with the classes that the metric needs."""
    there = confusion.sum(2) > 0  # (draws, classes)
    if name in ("macro_f1", "balanced_accuracy"):
        complete = there[:, np.unique(y)].all(1)
        return np.asarray(complete if name == "macro_f1" else complete & (there.sum(1) > 1))
    return np.asarray(there.sum(1) > (1 if name in ("mcc", "kappa_quadratic") else 0))


_OF_COUNTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "accuracy": _accuracy,
    "macro_f1": _macro_f1,
    "balanced_accuracy": _balanced_accuracy,
    "mcc": _mcc,
    "kappa_quadratic": _kappa_quadratic,
}
_OF_CLASS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "precision": lambda confusion, code: _ratio(
        confusion[:, code, code], confusion[:, :, code].sum(1)
    ),
    "recall": lambda confusion, code: _ratio(confusion[:, code, code], confusion[:, code].sum(1)),
}
_OF_CELLS = {"brier": cell_brier, "log_loss": cell_log_loss}


def _ranked(y: np.ndarray, proba: np.ndarray, unit: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUROC and average precision (2, draws): of the last of two classes, else the mean of each class against the rest."""
    codes = [1] if proba.shape[1] == 2 else range(proba.shape[1])
    return np.mean([_one_against_rest(proba[:, k], y == k, unit, weights) for k in codes], axis=0)


def _one_against_rest(
    value: np.ndarray, hit: np.ndarray, unit: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """AUROC and average precision of a score, from the highest value down, taken at the values that some positive has."""
    order = np.argsort(-value, kind="stable")
    unit, hit = unit[order], hit[order]
    starts, ends = _runs(value[order])
    some = np.diff(np.concatenate([[0], np.cumsum(hit)[ends]])) > 0
    starts, ends = starts[some], ends[some]
    tp = RunningSums(unit, hit, weights.shape[1], ends)
    fp = RunningSums(unit, ~hit, weights.shape[1], ends)
    above = RunningSums(
        unit, ~hit, weights.shape[1], starts - 1
    )  # negatives above the run of equal values
    n_hit = weights @ np.bincount(unit, hit, minlength=weights.shape[1])
    n_miss = weights @ np.bincount(unit, ~hit, minlength=weights.shape[1])
    area, precision = np.zeros(len(weights)), np.zeros(len(weights))
    for draws in _chunks(len(weights), len(unit)):
        t, f, a = tp(weights[draws]), fp(weights[draws]), above(weights[draws])
        gained = np.diff(t, axis=1, prepend=0)
        area[draws] = n_hit[draws] * n_miss[draws] - np.einsum("bk,bk->b", gained, (f + a) / 2)
        precision[draws] = np.einsum("bk,bk->b", gained, _ratio(t, t + f, nothing=0))
    neither = (n_hit == 0) | (n_miss == 0)
    found = np.stack([_ratio(area, n_hit * n_miss), _ratio(precision, n_hit)])
    return np.where(neither, np.nan, found)


def _within(y: np.ndarray, proba: np.ndarray, unit: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Share of the pairs within a unit that are ranked right (draws,)."""
    right, pairs = pairs_within(y, proba, unit)
    return np.asarray(_ratio(weights @ right, weights @ pairs).mean(1))


def _ece(sure: np.ndarray, right: np.ndarray, unit: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Expected calibration error in equal-mass bins of each draw (see `metrics.equal_mass_bins`)."""
    order = np.argsort(sure, kind="stable")
    _, ends = _runs(sure[order])
    mass = RunningSums(unit[order], np.ones(len(sure)), weights.shape[1], ends)
    error = RunningSums(unit[order], (right - sure)[order], weights.shape[1], ends)
    found = np.full(len(weights), np.nan)
    for draws in _chunks(len(weights), len(sure)):
        upto = mass(weights[draws])
        middle = N_BINS * (upto - np.diff(upto, axis=1, prepend=0) / 2)
        edges = upto[:, -1:] * np.arange(1, N_BINS)
        # the first run of equal values of each bin but the first; whole numbers, so that no edge is
        # a matter of rounding
        first = np.stack(
            [np.searchsorted(row, edge) for row, edge in zip(middle, edges, strict=True)]
        )
        sums = np.concatenate([np.zeros((len(upto), 1)), error(weights[draws])], axis=1)
        at = np.concatenate(
            [np.zeros_like(first[:, :1]), first, np.full_like(first[:, :1], len(ends))], axis=1
        )
        gaps = np.abs(np.diff(np.take_along_axis(sums, at, axis=1), axis=1)).sum(1)
        found[draws] = _ratio(gaps, upto[:, -1])
    return found


class RunningSums:
    """Running sums of a number per sorted cell, weighted by unit, at some positions: (draws, units) -> (draws, positions).

    Position -1 is before the first cell. With few units the sums of each are kept, and a weighting
    is a product of matrices; with many (a bootstrap over cells) the weighted numbers are summed
    anew.
    """

    def __init__(self, unit: np.ndarray, number: np.ndarray, n_units: int, at: np.ndarray) -> None:
        self.unit, self.number, self.at = unit, np.asarray(number, dtype=float), at
        self.by_unit = self._by_unit(n_units) if n_units <= _FEW_UNITS else None

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        if self.by_unit is not None:
            return np.asarray(weights @ self.by_unit)
        return self._from_zero(np.cumsum(weights[:, self.unit] * self.number, axis=1))

    def _by_unit(self, n_units: int) -> np.ndarray:
        sums = np.zeros((n_units, len(self.unit)))
        sums[self.unit, np.arange(len(self.unit))] = self.number
        return self._from_zero(np.cumsum(sums, axis=1, out=sums))

    def _from_zero(self, sums: np.ndarray) -> np.ndarray:
        """The sums at the positions, 0 before the first cell."""
        found = sums[:, self.at]
        found[:, self.at < 0] = 0
        return found


def _runs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last position of each run of equal values."""
    new = np.flatnonzero(values[1:] != values[:-1])
    return np.concatenate([[0], new + 1]), np.concatenate([new, [len(values) - 1]])


def _chunks(n_draws: int, n_cells: int) -> Iterator[slice]:
    """Draws in portions that bound the memory."""
    step = max(_CHUNK // max(n_cells, 1), 1)
    return (slice(start, start + step) for start in range(0, n_draws, step))
