"""How good predictions are: metrics by name, for any number of weightings of the cells at once.

A bootstrap draw is a weight per unit: how often a donor, or a cell, was drawn. An estimate is the
draw in which every weight is 1. Metrics of counts and means come from one small table per unit;
those of ranks from running sums over the cells sorted once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from scbert_cll._checks.words import choice, listed
from scbert_cll._evaluation.ranks import calibration_error, pairs_within, ranked, ratio

OF_RANKS = ("auroc", "auroc_within", "auprc")
_OF_COUNTS = ("accuracy", "macro_f1", "balanced_accuracy", "mcc", "kappa_quadratic")
METRICS = (
    "accuracy", "macro_f1", "balanced_accuracy", "mcc", "auroc", "auroc_within", "auprc",
    "kappa_quadratic", "brier", "log_loss", "ece",
)  # fmt: skip
LOWER_IS_BETTER = frozenset({"brier", "log_loss", "ece"})
_NEED_TWO = frozenset({*OF_RANKS, "balanced_accuracy", "mcc", "kappa_quadratic"})
# Out-of-fold probabilities are kept in single precision, which has no numbers closer to 1 than
# this.
_SMALLEST = float(np.finfo(np.float32).eps)


type Names = Sequence[str]  # of metrics


class Score(NamedTuple):
    """A value, and in words why it is missing or what was agreed upon to have one."""

    value: float
    note: str = ""


def score(
    name: str,
    y: np.ndarray,
    proba: np.ndarray,
    classes: Sequence[str],
    *,
    ordered: bool = False,
    donors: np.ndarray | None = None,
) -> Score:
    """One metric of one set of predictions; NaN and the reason where it is undefined.

    Two classes: the last one is the positive one. More: averages over classes, each against the
    rest.

    ``auroc`` ranks all cells in one line, though cells of different folds were scored by different
    models, whose shares of positives differ against those of the cells that they score: it errs
    downwards. ``auroc_within`` is the share of pairs of a positive and a negative cell of the same
    donor that are ranked right, the AUROC within donors weighted by their number of pairs: it
    cannot be raised by telling donors apart. Without donors the two are the same.

    Notes
    -----
    Agreed upon, and said in the note where it happens: macro-F1 counts a class without cells as 0,
    balanced accuracy leaves it out, and MCC is 0 where every cell is called the same. The Brier
    score of two classes is the mean squared error of the positive class's probability (0 to 1),
    that of more the sum over classes (0 to 2). Probabilities below single precision's resolution
    (1.2e-7) count as that in log_loss, which is at most about 15.9.
    """
    choice(name, METRICS, "A metric")
    donors = np.zeros(len(y)) if donors is None else donors
    unit = np.unique(donors, return_inverse=True)[1]
    absent = [c for code, c in enumerate(classes) if not (y == code).any()]
    n_missing = int(np.isnan(proba).any(axis=1).sum())
    if not len(y):
        return Score(np.nan, "no cells")
    if n_missing:
        return Score(np.nan, f"no prediction for {n_missing} of {len(y)} cells")
    if name == "kappa_quadratic" and not ordered:
        return Score(np.nan, "the classes are not ordered")
    if len(classes) - len(absent) == 1 and name in _NEED_TWO:
        return Score(np.nan, "one class only")
    if absent and name in OF_RANKS:
        return Score(np.nan, f"no cell of {listed(absent)}")
    if name == "auroc_within" and not pairs_within(y, proba, unit)[1].sum(0).all():
        return Score(np.nan, "no donor has cells of a class and of others")
    note, called = "", np.unique(proba.argmax(1))
    if name == "macro_f1" and absent:
        note = f"no cell of {listed(absent)}, whose F1 counts as 0"
    elif name == "balanced_accuracy" and absent:
        note = f"no cell of {listed(absent)}, left out of the mean"
    elif name == "mcc" and called.size == 1:
        note = f"every cell is called {classes[called[0]]!r}: 0 by convention"
    return Score(float(estimates([name], y, proba, unit)[0]), note)


def chance(name: str, y: np.ndarray, n_classes: int) -> float:
    """The value that is reached by knowing the shares of the classes only.

    By calling the most frequent class, or by giving the shares as probabilities.
    """
    shares = np.bincount(y, minlength=n_classes) / max(len(y), 1)
    positive = shares[shares > 0]
    two = n_classes == 2
    values = {
        "accuracy": shares.max(),
        "macro_f1": 2 * shares.max() / (1 + shares.max()) / n_classes,
        "balanced_accuracy": 1 / max(positive.size, 1),
        "mcc": 0.0,
        "auroc": 0.5,
        "auroc_within": 0.5,
        "auprc": shares[-1] if two else shares.mean(),
        "kappa_quadratic": 0.0,
        "brier": (1 - (shares**2).sum()) / (2 if two else 1),
        "log_loss": -(positive * np.log(positive)).sum(),
    }
    return float(values.get(name, np.nan))


def ends(name: str, n_classes: int) -> tuple[float, float]:
    """Smallest and largest possible value."""
    least = -1.0 if name in ("mcc", "kappa_quadratic") else 0.0
    if name == "log_loss":
        return least, -float(np.log(_SMALLEST))
    return least, 2.0 if name == "brier" and n_classes > 2 else 1.0


def estimates(
    names: Names, y: np.ndarray, proba: np.ndarray, unit: np.ndarray | None = None
) -> np.ndarray:
    """Metrics of the cells, each counted once (metrics,)."""
    unit = np.zeros(len(y), int) if unit is None else unit
    return weighted(names, y, proba, unit, np.ones((1, unit.max() + 1)))[:, 0]


def weighted(
    names: Names, y: np.ndarray, proba: np.ndarray, unit: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Metrics of the cells, each cell as often as the weight of its unit.

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
    n_units, n = weights.shape[1], proba.shape[1]
    called = proba.argmax(1)
    cell = (unit * n + y) * n + called
    by_unit = np.bincount(cell, minlength=n_units * n * n).reshape(n_units, n * n)
    # (draws, true, called)
    confusion = (weights @ by_unit.astype(float)).reshape(len(weights), n, n)
    of_ranks = ranked(y, proba, unit, weights) if set(OF_RANKS) & set(names) else {}
    values = []
    for name in names:
        metric, _, code = name.partition("|")
        if code:
            k = int(code)
            of_class = confusion[:, :, k] if metric == "precision" else confusion[:, k]
            values.append(ratio(of_class[:, k], of_class.sum(1)))
        elif metric in _OF_COUNTS:
            values.append(_of_counts(metric, y, confusion))
        elif metric in OF_RANKS:
            values.append(of_ranks[metric])
        elif metric == "ece":
            # of two classes the last one's probability, of more that of the call
            claimed, right = proba.max(1), y == called
            if n == 2:
                claimed, right = proba[:, 1], y == 1
            values.append(calibration_error(claimed, right, unit, weights))
        else:
            sums = np.bincount(unit, _of_cells(metric, y, proba), minlength=n_units)
            n_cells = np.bincount(unit, minlength=n_units)
            values.append(ratio(weights @ sums, weights @ n_cells))
    return np.stack(values)


def _of_counts(name: str, y: np.ndarray, confusion: np.ndarray) -> np.ndarray:
    """Metrics of counts (draws, true, called); NaN in draws without the classes that one needs."""
    n, true, called = confusion.sum((1, 2)), confusion.sum(2), confusion.sum(1)
    hits = np.einsum("bii->bi", confusion)
    enough = (true > 0).sum(1) > (name in _NEED_TWO)
    if name in ("macro_f1", "balanced_accuracy"):
        enough &= (true > 0)[:, np.unique(y)].all(1)
    if name == "accuracy":
        value = ratio(hits.sum(1), n)
    elif name == "macro_f1":
        value = ratio(2 * hits, called + true, nothing=0).mean(1)
    elif name == "balanced_accuracy":
        value = ratio(ratio(hits, true, nothing=0).sum(1), (true > 0).sum(1))
    elif name == "mcc":  # Gorodkin's correlation for any number of classes
        spread = np.sqrt(n**2 - (true**2).sum(1)) * np.sqrt(n**2 - (called**2).sum(1))
        value = ratio(n * hits.sum(1) - (true * called).sum(1), spread, nothing=0)
    else:
        codes = np.arange(confusion.shape[1])
        far = (codes[:, None] - codes) ** 2
        expected = ratio(np.einsum("bi,bj,ij->b", true, called, far), n)
        value = 1 - ratio(np.einsum("bij,ij->b", confusion, far), expected)
    return np.where(enough, value, np.nan)


def _of_cells(name: str, y: np.ndarray, proba: np.ndarray) -> np.ndarray:
    """Squared error of each cell's probabilities, or negative log of that of its class."""
    if name == "brier":
        squares = ((proba - np.eye(proba.shape[1])[y]) ** 2).sum(1)
        return np.asarray(squares / 2 if proba.shape[1] == 2 else squares)
    resolved = np.clip(proba, _SMALLEST, 1)
    resolved /= resolved.sum(1, keepdims=True)
    return np.asarray(-np.log(resolved[np.arange(len(y)), y]))
