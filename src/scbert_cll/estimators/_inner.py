"""Choices inside a fit, on inner folds held apart by donor: a penalty, a sigmoid, epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import has_fit_parameter

from scbert_cll._evaluation.folds import Parts, inner_folds

type Folds = list[Parts] | None
type Array = np.ndarray | None

_EPOCHS_UNSEEN: Final = 10


def balanced_logistic(C: float = 1.0) -> LogisticRegression:
    """Class-balanced logistic regression."""
    return LogisticRegression(C=C, class_weight="balanced", max_iter=2000)


class InnerCV(ClassifierMixin, BaseEstimator):
    """A classifier that settles something on inner folds and stands for the one that it then fits.

    Where a class has one row only, nothing can be held out.
    """

    n_inner: int
    random_state: int
    estimator_: Any
    _must_hold_out: ClassVar[bool] = False

    def fit(self, X: Any, y: np.ndarray, groups: Array = None, sample_weight: Array = None) -> Self:
        """Choose on inner folds, then fit to all rows."""
        can_hold_out = np.unique(y, return_counts=True)[1].min() > 1
        folds = None
        if can_hold_out or self._must_hold_out:
            folds = inner_folds(y, groups, self.n_inner, self.random_state)
        self.estimator_ = self._fitted(X, y, folds, sample_weight)
        return self

    def _fitted(self, X: Any, y: np.ndarray, folds: Folds, weight: Array) -> Any:
        """The classifier, fitted; without folds where nothing can be held out."""
        raise NotImplementedError

    @property
    def classes_(self) -> np.ndarray:
        """Classes of the fitted classifier."""
        return np.asarray(self.estimator_.classes_)

    def predict(self, X: Any) -> np.ndarray:
        """Most probable class of each row."""
        return np.asarray(self.classes_[self.predict_proba(X).argmax(axis=1)])

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probability of each class."""
        return np.asarray(self.estimator_.predict_proba(X))


@dataclass(eq=False, repr=False)
class GridSearched(InnerCV):
    """The setting of a grid with the lowest log-loss on inner folds, then fitted to all rows.

    Where a class has one row only, the middle of each list is taken.
    """

    estimator: Any
    grid: Mapping[str, Sequence[Any]]
    n_inner: int = 3
    random_state: int = 0

    def _fitted(self, X: Any, y: np.ndarray, folds: Folds, weight: Array) -> Any:
        arguments = accepted(self.estimator, sample_weight=weight)
        if folds is None:
            lists = self.grid.items()
            self.best_params_ = {k: values[len(values) // 2] for k, values in lists}
            model = clone(self.estimator).set_params(**self.best_params_)
            return model.fit(X, y, **arguments)
        grid = dict(self.grid)
        search = GridSearchCV(
            self.estimator, grid, scoring=_closeness, cv=folds, error_score="raise"
        )
        self.best_params_ = search.fit(X, y, **arguments).best_params_
        return search.best_estimator_


@dataclass(eq=False, repr=False)
class Calibrated(InnerCV):
    """A classifier without probabilities, and a sigmoid of its decision for held-out rows."""

    _must_hold_out = True

    estimator: Any
    n_inner: int = 3
    random_state: int = 0

    def _fitted(self, X: Any, y: np.ndarray, folds: Folds, weight: Array) -> Any:
        calibrated = CalibratedClassifierCV(self.estimator, cv=folds, ensemble=False)
        return calibrated.fit(X, y, sample_weight=weight)


@dataclass(eq=False, repr=False)
class EarlyStopped(InnerCV):
    """A network trained for the number of epochs that is best for the held-out rows of a fold.

    Then anew on all rows. Where a class has one row only, ten epochs are trained.
    """

    estimator: Any
    max_epochs: int = 50
    patience: int = 5
    n_inner: int = 3
    random_state: int = 0

    def _fitted(self, X: Any, y: np.ndarray, folds: Folds, weight: Array) -> Any:
        weight = np.ones(len(y)) if weight is None else weight
        self.n_epochs_ = _EPOCHS_UNSEEN
        if folds is not None:
            self.n_epochs_ = self._best_epoch(X, y, weight, folds[0])
        network = clone(self.estimator)
        for _ in range(self.n_epochs_):
            self._epoch(network, X, y, weight)
        return network

    def _best_epoch(self, X: Any, y: np.ndarray, weight: Any, fold: Parts) -> int:
        (train, val), network, losses = fold, clone(self.estimator), [np.inf]
        for epoch in range(1, self.max_epochs + 1):
            if epoch - int(np.argmin(losses)) > self.patience:
                break
            self._epoch(network, X[train], y[train], weight[train])
            losses.append(-_closeness(network, X[val], y[val]))
        return int(np.argmin(losses))

    def _epoch(self, network: Any, X: Any, y: np.ndarray, weight: np.ndarray) -> None:
        classes = None if hasattr(network, "classes_") else np.unique(y)
        network.partial_fit(X, y, classes=classes, sample_weight=weight)


def _closeness(estimator: Any, X: Any, y: np.ndarray) -> float:
    """Negative log-loss, also where a held-out donor has not all classes."""
    proba = np.array(estimator.predict_proba(X), dtype=np.float64)
    proba /= proba.sum(axis=1, keepdims=True)
    return -float(log_loss(y, proba, labels=estimator.classes_))


def accepted(estimator: Any, **given: np.ndarray | None) -> dict[str, np.ndarray]:
    """The arguments that the fit of this estimator takes.

    A pipeline's last step is reached through its name. A search passes groups on to splitters that
    split by groups, and only to these.
    """
    if isinstance(estimator, Pipeline):
        name, last = estimator.steps[-1]
        of_last = accepted(last, **given).items()
        return {f"{name}__{argument}": value for argument, value in of_last}
    by_groups = hasattr(getattr(estimator, "cv", None), "set_split_request")
    passed_on = ["groups"] * by_groups
    arrays = {k: array for k, array in given.items() if array is not None}
    taken = [k for k in arrays if k in passed_on or has_fit_parameter(estimator, k)]
    return {k: arrays[k] for k in taken}
