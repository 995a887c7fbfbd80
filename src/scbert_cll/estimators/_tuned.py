from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll._checks.words import choice, number_in
from scbert_cll._evaluation.folds import inner_folds
from scbert_cll._evaluation.metrics import LOWER_IS_BETTER, METRICS, score
from scbert_cll.estimators import _checks as estimator_checks
from scbert_cll.estimators._base import CellEstimator, Examples, as_estimator, examples, seeded


class Tuned(CellEstimator):
    """An estimator whose hyperparameters are searched for on inner folds of the training donors.

    Every trial is fitted once per inner fold and judged by its predictions for all held-out cells
    together; the best is then fitted to all training cells. The search is optuna's tree-structured
    Parzen estimator [1]_, an optional dependency: ``pip install 'scbert-cll[tune]'``.

    Parameters
    ----------
    estimator
        An estimator of cells, or a scikit-learn classifier, which is put :class:`OnMatrix`.
    space
        What to try for each parameter: ``("float", low, high)``, ``("float", low, high, "log")``,
        ``("int", low, high)`` or a list of choices. Parameters are named as ``get_params`` of the
        estimator of cells names them, e.g. ``"estimator__logisticregression__C"`` for a pipeline on
        a matrix.
    n_trials
        Number of settings to try.
    n_inner
        Number of inner folds: by donor, by cell only where donors do not suffice.
    metric
        What is best: ``log_loss``, ``brier`` or ``ece`` (lowest), ``macro_f1``, ``auroc`` …
        (highest).
    rng
        Seed of the search, the folds and the estimator.

    Attributes
    ----------
    best_params_
        The setting that was chosen; empty if there was nothing to choose by: one class only, or a
        class with a single cell.
    trials_
        Table of the trials: ``trial``, a column per parameter, and the metric.

    References
    ----------
    .. [1] Akiba et al. (2019), Optuna: a next-generation hyperparameter optimization framework, KDD,
       doi:10.1145/3292500.3330701.
    """

    def __init__(
        self,
        estimator: Any,
        space: Mapping[str, Any],
        *,
        n_trials: int = 20,
        n_inner: int = 3,
        metric: str = "log_loss",
        rng: int = 0,
    ) -> None:
        self.estimator = estimator
        self.space = space
        self.n_trials = n_trials
        self.n_inner = n_inner
        self.metric = metric
        self.rng = rng

    def check(self) -> None:
        """Refuse parameters that cannot be, before anything is fitted."""
        as_estimator(self.estimator).check()

    def fit(self, adata: AnnData, y: pd.Series, groups: pd.Series | None = None) -> Self:
        """Search, then learn from the labelled cells.

        Parameters
        ----------
        adata
            All cells of the training donors, raw counts in ``X``.
        y
            Class of each cell; missing where it is unlabelled.
        groups
            Donor of each cell.
        """
        base = seeded(as_estimator(self.estimator), self.rng)
        estimator_checks.space(self.space, base.get_params())
        choice(self.metric, METRICS, "metric")
        number_in(self.n_trials, "n_trials", 1, np.inf, whole=True)
        known = examples(adata, y, groups)
        self.best_params_: dict[str, Any] = {}
        self.trials_ = pd.DataFrame(columns=["trial", *self.space, self.metric])
        if np.bincount(known.codes).min() > 1 and len(known.classes) > 1:
            self._search(base, adata, y, groups, known)
        self.estimator_ = base.set_params(**self.best_params_).fit(adata, y, groups)
        self.classes_ = self.estimator_.classes_
        return self

    def predict_proba(self, adata: AnnData) -> np.ndarray:
        """Probability of each class (cells × ``classes_``) by the best setting.

        Parameters
        ----------
        adata
            Cells with raw counts in ``X``.
        """
        return np.asarray(self.estimator_.predict_proba(adata))

    def _search(
        self,
        base: CellEstimator,
        adata: AnnData,
        y: pd.Series,
        groups: pd.Series | None,
        known: Examples,
    ) -> None:
        optuna = _optuna()
        folds = inner_folds(known.codes, known.donors, self.n_inner, self.rng)
        tried: list[dict[str, Any]] = []

        def objective(trial: Any) -> float:
            setting = {name: _suggested(trial, name, spec) for name, spec in self.space.items()}
            proba = np.zeros((len(known.codes), len(known.classes)))
            for train, val in folds:
                rows = _training_rows(known, groups, train, val, adata.n_obs)
                model = seeded(base, self.rng).set_params(**setting)
                model.fit(adata[rows], y.iloc[rows], None if groups is None else groups.iloc[rows])
                proba[val] = model.predict_proba(adata[known.rows[val]])
            value = score(self.metric, known.codes, proba, list(known.classes), ordered=True).value
            tried.append({"trial": trial.number, **setting, self.metric: value})
            return value

        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            direction = "minimize" if self.metric in LOWER_IS_BETTER else "maximize"
            study = optuna.create_study(
                direction=direction, sampler=optuna.samplers.TPESampler(seed=self.rng)
            )
            study.optimize(objective, n_trials=self.n_trials)
        finally:
            optuna.logging.set_verbosity(verbosity)
        self.trials_ = pd.DataFrame(tried)
        self.best_params_ = {name: tried[study.best_trial.number][name] for name in self.space}


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ImportError(
            "Tuned needs optuna, which is not installed: pip install 'scbert-cll[tune]'"
        ) from error
    return optuna


def _suggested(trial: Any, name: str, spec: Any) -> Any:
    """A value of the space.

    Choices are asked for by their place, since optuna takes plain values only.
    """
    if isinstance(spec, list):
        return spec[trial.suggest_categorical(name, range(len(spec)))]
    suggest = trial.suggest_float if spec[0] == "float" else trial.suggest_int
    return suggest(name, spec[1], spec[2], log=spec[3:] == ("log",))


def _training_rows(
    known: Examples, groups: pd.Series | None, train: np.ndarray, val: np.ndarray, n_obs: int
) -> np.ndarray:
    """Rows to train on: all but the held-out cells and, of held-out donors, the unlabelled ones, too."""
    away = np.zeros(n_obs, dtype=bool)
    away[known.rows[val]] = True
    if groups is not None:
        donors = groups.astype(str).to_numpy()
        ours, theirs = (set(donors[known.rows[part]]) for part in (train, val))
        away |= np.isin(donors, sorted(theirs - ours))
    return np.flatnonzero(~away)
