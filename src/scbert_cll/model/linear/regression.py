"""Logistic regression on the tokens that the network reads, by scikit-learn's exact solver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from scipy import sparse
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scbert_cll._evaluation.folds import inner_folds

Combine = Literal["none", "average", "residual"]
COMBINE: Final = ("none", "average", "residual")
STRENGTHS: Final = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_DEFAULT: Final = 1e-3  # where no cell can be spared to choose
_INNER: Final = 3


@dataclass(frozen=True)
class LinearPart:
    """Logits that are linear in a cell's tokens."""

    coefficients: np.ndarray  # float64 (classes, genes), per unit of a token
    intercept: np.ndarray  # float64 (classes,)
    strength: float  # C of the fit

    def arrays(self) -> dict[str, np.ndarray]:
        """What is saved of it, but for the strength."""
        return {"coefficients": self.coefficients, "intercept": self.intercept}

    def logits(self, tokens: sparse.csr_matrix) -> np.ndarray:
        """(cells, genes) -> float64 (cells, classes)."""
        return np.asarray(tokens @ self.coefficients.T + self.intercept)

    def proba(self, tokens: sparse.csr_matrix) -> np.ndarray:
        """(cells, genes) -> float64 (cells, classes), rows sum to 1."""
        return np.asarray(softmax(self.logits(tokens), axis=1))


def fit_linear(
    tokens: sparse.csr_matrix,
    codes: np.ndarray,
    weights: np.ndarray,
    train: np.ndarray,
    val: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> LinearPart:
    """Fit to the training cells.

    The L2 penalty is the one with the lowest weighted log-loss on held-out cells.

    These are the validation cells where there are some of each class, else inner folds of the
    training cells.
    """
    folds = [(train, val)] if len(np.unique(codes[val])) == len(np.unique(codes[train])) else []
    if not folds and np.bincount(codes[train]).min() < 2:
        return _fitted(tokens, codes, weights, train, _DEFAULT)
    if not folds:
        folds = [
            (train[a], train[b])
            for a, b in inner_folds(codes[train], _taken(groups, train), _INNER, seed)
        ]
    losses = [
        np.mean([_loss(tokens, codes, weights, *parts, strength) for parts in folds])
        for strength in STRENGTHS
    ]
    return _fitted(tokens, codes, weights, train, STRENGTHS[int(np.argmin(losses))])


def out_of_fold_logits(
    part: LinearPart,
    tokens: sparse.csr_matrix,
    codes: np.ndarray,
    weights: np.ndarray,
    train: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Logits for every cell.

    Those of a training cell are from a fit that has not seen it: float64 (cells, classes).

    Fitted logits of the training cells themselves would leave a network nothing to learn. Where a
    class has one training cell there is no such fit, and all are from `part`.
    """
    logits = part.logits(tokens)
    if np.bincount(codes[train]).min() < 2:
        return logits
    for fit, left_out in inner_folds(codes[train], _taken(groups, train), _INNER, seed):
        fold = _fitted(tokens, codes, weights, train[fit], part.strength)
        logits[train[left_out]] = fold.logits(tokens[train[left_out]])
    return logits


def joined(network: np.ndarray, linear: np.ndarray, share: float) -> np.ndarray:
    """Probabilities (cells, classes) of mixed log-probabilities, `share` of them the network's."""
    mixed = share * log_softmax(network, axis=1) + (1 - share) * log_softmax(linear, axis=1)
    return np.asarray(softmax(mixed, axis=1))


def _taken(groups: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
    return None if groups is None else groups[rows]


def _fitted(
    tokens: sparse.csr_matrix,
    codes: np.ndarray,
    weights: np.ndarray,
    rows: np.ndarray,
    strength: float,
) -> LinearPart:
    model = make_pipeline(
        StandardScaler(with_mean=False), LogisticRegression(C=strength, max_iter=2000)
    )
    model.fit(
        tokens[rows].astype(np.float64),
        codes[rows],
        logisticregression__sample_weight=weights[rows],
    )
    scaler, regression = model[0], model[-1]
    coefficients, intercept = regression.coef_ / scaler.scale_, regression.intercept_
    if (
        len(coefficients) == 1
    ):  # two classes: scikit-learn keeps the second one's logit against the first
        coefficients = np.concatenate([np.zeros_like(coefficients), coefficients])
        intercept = np.concatenate([[0.0], intercept])
    return LinearPart(coefficients, intercept, strength)


def _loss(
    tokens: sparse.csr_matrix,
    codes: np.ndarray,
    weights: np.ndarray,
    train: np.ndarray,
    val: np.ndarray,
    strength: float,
) -> float:
    proba = _fitted(tokens, codes, weights, train, strength).proba(tokens[val])
    return float(
        log_loss(codes[val], proba, labels=np.unique(codes[train]), sample_weight=weights[val])
    )
