"""Logistic regression on the tokens that the network reads, by scikit-learn's exact solver.

It is fitted beside a network; what predictions make of both is in `model/_inference.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np
from scipy import sparse
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scbert_cll._evaluation.folds import inner_folds
from scbert_cll.model._tensors import usable

Combine = Literal["none", "average", "residual"]
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


class Examples(NamedTuple):
    """Cells with classes, of which some train and some validate."""

    tokens: sparse.csr_matrix  # (cells, genes)
    codes: np.ndarray  # class of each cell
    weights: np.ndarray  # how much each cell counts
    train: np.ndarray  # rows
    val: np.ndarray  # rows
    donors: np.ndarray | None = None
    seed: int = 0  # of inner folds

    @property
    def can_hold_out(self) -> bool:
        """Whether each class has a second training cell."""
        return bool(np.bincount(self.codes[self.train]).min() > 1)

    def inner_folds(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Rows to fit to and rows left out, of the training cells."""
        donors = None if self.donors is None else self.donors[self.train]
        folds = inner_folds(self.codes[self.train], donors, _INNER, self.seed)
        return [(self.train[fit], self.train[left_out]) for fit, left_out in folds]

    def fitted(self, rows: np.ndarray, strength: float) -> LinearPart:
        """The regression fitted to some rows."""
        logistic = LogisticRegression(C=strength, max_iter=2000)
        model = make_pipeline(StandardScaler(with_mean=False), logistic)
        weights = {"logisticregression__sample_weight": self.weights[rows]}
        model.fit(self.tokens[rows].astype(np.float64), self.codes[rows], **weights)
        scaler, regression = model[0], model[-1]
        coefficients = regression.coef_ / scaler.scale_
        intercept = regression.intercept_
        # scikit-learn keeps the second class' logit against the first
        if len(coefficients) == 1:
            coefficients = np.concatenate([np.zeros_like(coefficients), coefficients])
            intercept = np.concatenate([[0.0], intercept])
        return LinearPart(coefficients, intercept, strength)

    def loss(self, train: np.ndarray, val: np.ndarray, strength: float) -> float:
        """Weighted log-loss of rows that are left out."""
        proba = self.fitted(train, strength).proba(self.tokens[val])
        y, weights, labels = self.codes[val], self.weights[val], np.unique(self.codes[train])
        return float(log_loss(y, proba, labels=labels, sample_weight=weights))


def fit_linear(cells: Examples) -> LinearPart:
    """Fit to the training cells.

    The L2 penalty is the one with the lowest weighted log-loss on held-out cells. These are the
    validation cells where there are some of each class, else inner folds of the training cells.

    Raises
    ------
    ValueError
        Its coefficients are not finite.
    """
    n_classes = [len(np.unique(cells.codes[rows])) for rows in (cells.train, cells.val)]
    folds = [(cells.train, cells.val)]
    if n_classes[0] != n_classes[1]:
        folds = cells.inner_folds() if cells.can_hold_out else []
    strength = _DEFAULT
    if folds:
        losses = [np.mean([cells.loss(*fold, c) for fold in folds]) for c in STRENGTHS]
        strength = STRENGTHS[int(np.argmin(losses))]
    part = cells.fitted(cells.train, strength)
    usable(part.arrays(), "The logistic regression beside the network")
    return part


def out_of_fold_logits(part: LinearPart, cells: Examples) -> np.ndarray:
    """Logits for every cell, float64 (cells, classes).

    Those of a training cell are from a fit that has not seen it: fitted logits of the training
    cells themselves would leave a network nothing to learn. Where a class has one training cell
    there is no such fit, and all are from `part`.
    """
    logits = part.logits(cells.tokens)
    for fit, left_out in cells.inner_folds() if cells.can_hold_out else []:
        of_fold = cells.fitted(fit, part.strength)
        logits[left_out] = of_fold.logits(cells.tokens[left_out])
    return logits


def loss_of_logits(logits: np.ndarray, codes: np.ndarray, weights: np.ndarray) -> float:
    """Cross-entropy as training computes it for validation cells, whose weights have mean 1."""
    of_class = log_softmax(logits, axis=1)[np.arange(len(codes)), codes]
    return float(np.mean(-of_class * weights))
