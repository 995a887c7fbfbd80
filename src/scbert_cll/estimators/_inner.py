"""Choices inside a fit: scikit-learn classifiers that settle something on inner folds, held apart by donor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import has_fit_parameter

from scbert_cll._evaluation.folds import inner_folds

Parts = tuple[np.ndarray, np.ndarray]
_EPOCHS_UNSEEN: Final = 10


class Chosen(ClassifierMixin, BaseEstimator):
    """What the classes below share: they stand for the classifier they fit in the end, `estimator_`."""

    estimator_: Any

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


class Searched(Chosen):
    """The setting of a grid with the lowest log-loss on inner folds, then fitted to all rows.

    Where a class has one row only, nothing can be held out and the middle of each list is taken.
    """

    def __init__(
        self,
        estimator: Any,
        grid: Mapping[str, Sequence[Any]],
        n_inner: int = 3,
        random_state: int = 0,
    ) -> None:
        self.estimator = estimator
        self.grid = grid
        self.n_inner = n_inner
        self.random_state = random_state

    def fit(
        self,
        X: Any,
        y: np.ndarray,
        groups: np.ndarray | None = None,
        sample_weight: np.ndarray | None = None,
    ) -> Self:
        """Choose, then fit."""
        arguments = accepted(self.estimator, sample_weight=sample_weight)
        folds = folds_within(y, groups, self.n_inner, self.random_state)
        if folds is None:
            self.best_params_ = {
                name: values[len(values) // 2] for name, values in self.grid.items()
            }
            self.estimator_ = (
                clone(self.estimator).set_params(**self.best_params_).fit(X, y, **arguments)
            )
            return self
        search = GridSearchCV(
            self.estimator, dict(self.grid), scoring=_closeness, cv=folds, error_score="raise"
        )
        search.fit(X, y, **arguments)
        self.best_params_, self.estimator_ = search.best_params_, search.best_estimator_
        return self


class Calibrated(Chosen):
    """A classifier without probabilities, and a sigmoid of its decision fitted to held-out rows of inner folds."""

    def __init__(self, estimator: Any, n_inner: int = 3, random_state: int = 0) -> None:
        self.estimator = estimator
        self.n_inner = n_inner
        self.random_state = random_state

    def fit(
        self,
        X: Any,
        y: np.ndarray,
        groups: np.ndarray | None = None,
        sample_weight: np.ndarray | None = None,
    ) -> Self:
        """Fit both."""
        folds = inner_folds(y, groups, self.n_inner, self.random_state)
        self.estimator_ = CalibratedClassifierCV(self.estimator, cv=folds, ensemble=False)
        self.estimator_.fit(X, y, sample_weight=sample_weight)
        return self


class EarlyStopped(Chosen):
    """A network trained for as many epochs as predict the held-out rows of one inner fold best, then anew on all rows.

    Where a class has one row only, nothing can be held out and ten epochs are trained.
    """

    def __init__(
        self,
        estimator: Any,
        max_epochs: int = 50,
        patience: int = 5,
        n_inner: int = 3,
        random_state: int = 0,
    ) -> None:
        self.estimator = estimator
        self.max_epochs = max_epochs
        self.patience = patience
        self.n_inner = n_inner
        self.random_state = random_state

    def fit(
        self,
        X: Any,
        y: np.ndarray,
        groups: np.ndarray | None = None,
        sample_weight: np.ndarray | None = None,
    ) -> Self:
        """Find the number of epochs, then train."""
        folds = folds_within(y, groups, self.n_inner, self.random_state)
        weight = np.ones(len(y)) if sample_weight is None else sample_weight
        self.n_epochs_ = (
            _EPOCHS_UNSEEN if folds is None else self._best_epoch(X, y, weight, *folds[0])
        )
        self.estimator_ = clone(self.estimator)
        for _ in range(self.n_epochs_):
            self._epoch(self.estimator_, X, y, weight)
        return self

    def _best_epoch(
        self, X: Any, y: np.ndarray, weight: np.ndarray, train: np.ndarray, val: np.ndarray
    ) -> int:
        network, losses = clone(self.estimator), [np.inf]
        while (
            len(losses) <= self.max_epochs and len(losses) - int(np.argmin(losses)) <= self.patience
        ):
            self._epoch(network, X[train], y[train], weight[train])
            losses.append(-_closeness(network, X[val], y[val]))
        return int(np.argmin(losses))

    def _epoch(self, network: Any, X: Any, y: np.ndarray, weight: np.ndarray) -> None:
        classes = None if hasattr(network, "classes_") else np.unique(y)
        network.partial_fit(X, y, classes=classes, sample_weight=weight)


def folds_within(
    y: np.ndarray, groups: np.ndarray | None, n_splits: int, seed: int
) -> list[Parts] | None:
    """Inner folds, or none where a class has a single row."""
    return (
        inner_folds(y, groups, n_splits, seed)
        if np.unique(y, return_counts=True)[1].min() > 1
        else None
    )


def _closeness(estimator: Any, X: Any, y: np.ndarray) -> float:
    """Negative log-loss, also where a held-out donor has not all classes."""
    proba = np.asarray(estimator.predict_proba(X), dtype=np.float64)
    return -float(log_loss(y, proba / proba.sum(axis=1, keepdims=True), labels=estimator.classes_))


def accepted(estimator: Any, **given: np.ndarray | None) -> dict[str, np.ndarray]:
    """Of what is given, what the fit of this estimator takes.

    A pipeline's last step is reached through its name.
    """
    if isinstance(estimator, Pipeline):
        name, last = estimator.steps[-1]
        return {f"{name}__{argument}": value for argument, value in accepted(last, **given).items()}
    return {name: v for name, v in given.items() if v is not None and _takes(estimator, name)}


def _takes(estimator: Any, argument: str) -> bool:
    """Whether its fit has the argument.

    A search passes groups on to splitters that are told by groups, and only to these.
    """
    by_groups = argument == "groups" and hasattr(
        getattr(estimator, "cv", None), "set_split_request"
    )
    return by_groups or has_fit_parameter(estimator, argument)
