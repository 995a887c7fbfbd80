"""How good predictions are: the metrics by name, one number and one reason each, through scikit-learn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata
from sklearn.metrics import (
    average_precision_score,
    cohen_kappa_score,
    f1_score,
    log_loss,
    matthews_corrcoef,
    recall_score,
    roc_auc_score,
)

from scbert_cll._checks.words import choice, listed

METRICS = (
    "accuracy",
    "macro_f1",
    "balanced_accuracy",
    "mcc",
    "auroc",
    "auroc_within",
    "auprc",
    "kappa_quadratic",
    "brier",
    "log_loss",
    "ece",
)
OF_RANKS = ("auroc", "auroc_within", "auprc")
LOWER_IS_BETTER = frozenset({"brier", "log_loss", "ece"})
N_BINS = 15
# Out-of-fold probabilities are kept in single precision, which has no numbers closer to 1 than
# this.
_SMALLEST = float(np.finfo(np.float32).eps)


class Score(NamedTuple):
    """A value, and in words why it is missing or what was agreed upon to have one."""

    value: float
    note: str = ""


class Predicted(NamedTuple):
    """Codes of the true classes and a probability of each class, with the classes' names."""

    y: np.ndarray  # (n,)
    proba: np.ndarray  # (n, classes), rows sum to 1
    classes: Sequence[str]
    donors: np.ndarray | None = None  # (n,)

    @property
    def called(self) -> np.ndarray:
        """The class of the highest probability, the first one of several."""
        return np.asarray(self.proba.argmax(1))

    @property
    def hot(self) -> np.ndarray:
        """Whether a cell is of a class; of the last one only where there are two."""
        codes = np.arange(len(self.classes))
        return np.asarray(self.y[:, None] == codes[-1 if codes.size == 2 else 0 :])

    def absent(self) -> list[str]:
        """Classes without a cell."""
        return [c for code, c in enumerate(self.classes) if not (self.y == code).any()]


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
    found = Predicted(y, proba, classes, donors)
    reason = _undefined(name, found, ordered)
    return (
        Score(np.nan, reason)
        if reason
        else Score(float(_VALUES[name](found)), _agreed(name, found))
    )


def chance(name: str, y: np.ndarray, n_classes: int) -> float:
    """What knowing the classes' shares only would reach: always the most frequent class, or the shares as probabilities."""
    shares = np.bincount(y, minlength=n_classes) / max(len(y), 1)
    known = shares[shares > 0]
    two = n_classes == 2
    return float(
        {
            "accuracy": shares.max(),
            "macro_f1": 2 * shares.max() / (1 + shares.max()) / n_classes,
            "balanced_accuracy": 1 / max(known.size, 1),
            "mcc": 0.0,
            "auroc": 0.5,
            "auroc_within": 0.5,
            "auprc": shares[-1] if two else shares.mean(),
            "kappa_quadratic": 0.0,
            "brier": (1 - (shares**2).sum()) / (2 if two else 1),
            "log_loss": -(known * np.log(known)).sum(),
        }.get(name, np.nan)
    )


def ends(name: str, n_classes: int) -> tuple[float, float]:
    """Smallest and largest possible value."""
    least = -1.0 if name in ("mcc", "kappa_quadratic") else 0.0
    most = {"brier": 1.0 if n_classes == 2 else 2.0, "log_loss": -float(np.log(_SMALLEST))}
    return least, most.get(name, 1.0)


def certainty(y: np.ndarray, proba: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The probability that is to be calibrated and what it claims.

    Two classes: the last one's, and whether the cell is of it. More: the highest, and whether the
    call is right.
    """
    if proba.shape[1] == 2:
        return proba[:, 1], (y == 1).astype(float)
    return proba.max(1), (y == proba.argmax(1)).astype(float)


def equal_mass_bins(sure: np.ndarray, n_bins: int = N_BINS) -> np.ndarray:
    """Bin of each probability: by rank, as many in each.

    Equal ones share the bin in which the middle of them falls.
    """
    _, place, count = np.unique(sure, return_inverse=True, return_counts=True)
    middle = np.cumsum(count) - count / 2
    return np.asarray(np.floor(n_bins * middle / len(sure)).astype(int)[place])


def cell_brier(y: np.ndarray, proba: np.ndarray) -> np.ndarray:
    """Squared error of each cell's probabilities."""
    squares = ((proba - np.eye(proba.shape[1])[y]) ** 2).sum(1)
    return np.asarray(squares / 2 if proba.shape[1] == 2 else squares)


def cell_log_loss(y: np.ndarray, proba: np.ndarray) -> np.ndarray:
    """Negative log of each cell's probability of its class."""
    return np.asarray(-np.log(away_from_zero(proba)[np.arange(len(y)), y]))


def away_from_zero(proba: np.ndarray) -> np.ndarray:
    """Probabilities no smaller than single precision resolves."""
    clipped = np.clip(proba, _SMALLEST, 1)
    return np.asarray(clipped / clipped.sum(1, keepdims=True))


def _undefined(name: str, found: Predicted, ordered: bool) -> str:
    """Why there is no value; nothing where there is one."""
    missing = int(np.isnan(found.proba).any(axis=1).sum())
    absent = found.absent()
    if not len(found.y):
        return "no cells"
    if missing:
        return f"no prediction for {missing} of {len(found.y)} cells"
    if name == "kappa_quadratic" and not ordered:
        return "the classes are not ordered"
    if len(found.classes) - len(absent) == 1 and name in _NEED_TWO:
        return "one class only"
    if name == "auroc_within" and not absent and np.isnan(_auroc_within(found)):
        return "no donor has cells of a class and of others"
    return f"no cell of {listed(absent)}" if absent and name in _NEED_ALL else ""


_NEED_ALL = frozenset({"auroc", "auroc_within", "auprc"})
_NEED_TWO = _NEED_ALL | {"balanced_accuracy", "mcc", "kappa_quadratic"}


def _agreed(name: str, found: Predicted) -> str:
    """The convention without which there would be no value."""
    absent = listed(found.absent())
    if name == "macro_f1" and found.absent():
        return f"no cell of {absent}, whose F1 counts as 0"
    if name == "balanced_accuracy" and found.absent():
        return f"no cell of {absent}, left out of the mean"
    called = np.unique(found.called)
    if name == "mcc" and called.size == 1:
        return f"every cell is called {found.classes[called[0]]!r}: 0 by convention"
    return ""


def _accuracy(p: Predicted) -> float:
    return float((p.called == p.y).mean())


def _macro_f1(p: Predicted) -> float:
    return float(
        f1_score(p.y, p.called, labels=np.arange(len(p.classes)), average="macro", zero_division=0)
    )


def _balanced_accuracy(p: Predicted) -> float:
    # balanced_accuracy_score warns where a class that no cell has is called; the number is the same
    return float(
        recall_score(p.y, p.called, labels=np.unique(p.y), average="macro", zero_division=0)
    )


def _auroc(p: Predicted) -> float:
    if len(p.classes) == 2:
        return float(roc_auc_score(p.y, p.proba[:, 1]))
    return float(
        roc_auc_score(
            p.y, p.proba, multi_class="ovr", average="macro", labels=np.arange(len(p.classes))
        )
    )


def _auroc_within(p: Predicted) -> float:
    unit = (
        np.zeros(len(p.y), int) if p.donors is None else np.unique(p.donors, return_inverse=True)[1]
    )
    right, pairs = pairs_within(p.y, p.proba, unit)
    right, pairs = right.sum(0), pairs.sum(0)
    return float(np.mean(np.divide(right, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)))


def pairs_within(
    y: np.ndarray, proba: np.ndarray, unit: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of a cell of a class and another one of the same unit: how many are ranked right, ties half, and how many there are.

    Both (units, classes), of two classes the last one only.
    """
    codes = [1] if proba.shape[1] == 2 else list(range(proba.shape[1]))
    right, pairs = np.zeros((2, unit.max() + 1, len(codes)))
    for u in range(unit.max() + 1):
        own = np.flatnonzero(unit == u)
        for j, code in enumerate(codes):
            hit = y[own] == code
            n = hit.sum()
            pairs[u, j] = n * (len(own) - n)
            if pairs[u, j]:
                right[u, j] = rankdata(proba[own, code])[hit].sum() - n * (n + 1) / 2
    return right, pairs


def _auprc(p: Predicted) -> float:
    return float(average_precision_score(p.hot, p.proba[:, -p.hot.shape[1] :], average="macro"))


def _kappa_quadratic(p: Predicted) -> float:
    return float(
        cohen_kappa_score(p.y, p.called, labels=np.arange(len(p.classes)), weights="quadratic")
    )


def _brier(p: Predicted) -> float:
    # brier_score_loss knows more than two classes from scikit-learn 1.7 on only
    return float(cell_brier(p.y, p.proba).mean())


def _log_loss(p: Predicted) -> float:
    return float(log_loss(p.y, away_from_zero(p.proba), labels=np.arange(len(p.classes))))


def _ece(p: Predicted) -> float:
    sure, right = certainty(p.y, p.proba)
    return float(np.abs(np.bincount(equal_mass_bins(sure), right - sure)).sum() / len(p.y))


_VALUES: dict[str, Callable[[Predicted], float]] = {
    "accuracy": _accuracy,
    "macro_f1": _macro_f1,
    "balanced_accuracy": _balanced_accuracy,
    "mcc": lambda p: float(matthews_corrcoef(p.y, p.called)),
    "auroc": _auroc,
    "auroc_within": _auroc_within,
    "auprc": _auprc,
    "kappa_quadratic": _kappa_quadratic,
    "brier": _brier,
    "log_loss": _log_loss,
    "ece": _ece,
}
