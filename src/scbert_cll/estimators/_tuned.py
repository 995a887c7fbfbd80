from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _docs
from scbert_cll._checks.words import choice, listed, number_in
from scbert_cll._evaluation.folds import Parts, inner_folds
from scbert_cll._evaluation.metrics import LOWER_IS_BETTER, METRICS, score
from scbert_cll._optional import optional
from scbert_cll.estimators import _base
from scbert_cll.estimators._base import Donors, Examples, seeded

_FORMS = (
    '("float", low, high), ("float", low, high, "log"), ("int", low, high) or a list of choices'
)


@_docs.shared
@dataclass(eq=False, repr=False)
class Tuned(_base.MetaEstimator):
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
    .. [1] Akiba et al. (2019), Optuna: a next-generation hyperparameter optimization framework,
       KDD, doi:10.1145/3292500.3330701.
    """

    estimator: Any
    space: Mapping[str, Any]
    _: KW_ONLY
    n_trials: int = 20
    n_inner: int = 3
    metric: str = "log_loss"
    rng: int = 0

    def fit(self, adata: AnnData, y: pd.Series, groups: Donors = None) -> Self:
        """Search, then learn from the labelled cells.

        Parameters
        ----------
        %(training_cells)s
        """
        base = seeded(_base.as_estimator(self.estimator), self.rng)
        _check_space(self.space, sorted(base.get_params()))
        choice(self.metric, METRICS, "metric")
        number_in(self.n_trials, "n_trials", 1, np.inf, whole=True)
        labelled = _base.examples(adata, y, groups)
        self.best_params_: dict[str, object] = {}
        self.trials_ = pd.DataFrame(columns=["trial", *self.space, self.metric])
        if np.bincount(labelled.codes).min() > 1 and len(labelled.classes) > 1:
            self._search(adata, y, groups, labelled)
        self.estimator_ = base.set_params(**self.best_params_).fit(adata, y, groups)
        self.classes_ = self.estimator_.classes_
        return self

    def _search(self, adata: AnnData, y: pd.Series, groups: Donors, labelled: Examples) -> None:
        optuna = optional("optuna", "Tuned")
        base = _base.as_estimator(self.estimator)
        codes, classes = labelled.codes, list(labelled.classes)
        folds = inner_folds(codes, labelled.donors, self.n_inner, self.rng)
        trials: list[dict[str, object]] = []

        def objective(trial: Any) -> float:
            space = self.space.items()
            setting = {name: _suggested(trial, name, spec) for name, spec in space}
            proba = np.zeros((len(codes), len(classes)))
            for fold in folds:
                rows, val = _to_fit(labelled, groups, fold, adata.n_obs), fold[1]
                model = seeded(base, self.rng).set_params(**setting)
                donors = None if groups is None else groups.iloc[rows]
                model.fit(adata[rows], y.iloc[rows], donors)
                proba[val] = model.predict_proba(adata[labelled.rows[val]])
            value = score(self.metric, codes, proba, classes, ordered=True).value
            trials.append({"trial": trial.number, **setting, self.metric: value})
            return value

        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            direction = "minimize" if self.metric in LOWER_IS_BETTER else "maximize"
            sampler = optuna.samplers.TPESampler(seed=self.rng)
            study = optuna.create_study(direction=direction, sampler=sampler)
            study.optimize(objective, n_trials=self.n_trials)
        finally:
            optuna.logging.set_verbosity(verbosity)
        self.trials_ = pd.DataFrame(trials)
        best = trials[study.best_trial.number]
        self.best_params_ = {name: best[name] for name in self.space}


def _check_space(space: Mapping[str, Any], params: list[str]) -> None:
    """Hyperparameters that exist, each with something to choose from."""
    if unknown := [name for name in space if name not in params]:
        raise ValueError(
            f"space names parameters the estimator does not have: {listed(unknown)}; it has "
            f"{listed(params, 40)}."
        )
    if not space:
        what = "name at least one parameter and its range"
        raise ValueError(f"space is empty; {what}: {_FORMS}.")
    for name, spec in space.items():
        match spec:
            case list():
                valid = len(spec) > 0
            case ("float", low, high, *log) | ("int", int(low), int(high), *log):
                valid = low <= high and (not log or (log == ["log"] and low > 0))
            case _:
                valid = False
        if not valid:
            raise ValueError(f"space[{name!r}] must be {_FORMS}; found {spec!r}.")


def _suggested(trial: Any, name: str, spec: Any) -> Any:
    """A value of the space; a choice by its place, since optuna takes plain values only."""
    if isinstance(spec, list):
        return spec[trial.suggest_categorical(name, range(len(spec)))]
    suggest = trial.suggest_float if spec[0] == "float" else trial.suggest_int
    return suggest(name, spec[1], spec[2], log=spec[3:] == ("log",))


def _to_fit(labelled: Examples, groups: Donors, fold: Parts, n_obs: int) -> np.ndarray:
    """Rows to train on: without the held-out cells and the unlabelled ones of held-out donors."""
    left_out = np.zeros(n_obs, dtype=bool)
    left_out[labelled.rows[fold[1]]] = True
    if groups is not None:
        donors = groups.astype(str).to_numpy()
        ours, theirs = (set(donors[labelled.rows[part]]) for part in fold)
        left_out |= np.isin(donors, sorted(theirs - ours))
    return np.flatnonzero(~left_out)
