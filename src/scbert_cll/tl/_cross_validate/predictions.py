"""Predictions of held-out cells: every model fitted in every fold, or read from an earlier run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from scbert_cll._evaluation.folds import Fold
from scbert_cll._evaluation.store import Done, FoldStore, fingerprint
from scbert_cll._process import Bar, as_it_was, calm
from scbert_cll._version import __version__
from scbert_cll.estimators import CellEstimator, seeded
from scbert_cll.tl._cross_validate.task import PROTEIN, Task


class Model(NamedTuple):
    """An estimator and its name."""

    name: str
    estimator: CellEstimator

    @property
    def rows(self) -> list[str]:
        """Rows of the tables that it fills: its own, and one for each part of it."""
        return [self.name, *(f"{self.name}_{part}" for part in self.estimator.parts)]


def predict(
    task: Task,
    models: Sequence[Model],
    folds: Sequence[Fold],
    n_repeats: int,
    store: FoldStore,
    seed: int,
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Out-of-fold probabilities (repeats, cells, classes) and mean seconds per fold, by model."""
    shape = (n_repeats, len(task.codes), len(task.classes))
    proba = {row: np.full(shape, np.nan, np.float32) for model in models for row in model.rows}
    seconds = dict.fromkeys((model.name for model in models), 0.0)
    counts, protein = task.counts, np.asarray(task.cells.obsm.get(PROTEIN, np.zeros(0)))
    genes = list(task.cells.var_names)
    data = fingerprint(counts.data, counts.indices, counts.indptr, genes, protein)
    with Bar(total=len(folds) * len(models), unit="fit", disable=None) as bar:
        for fold in folds:
            states = np.random.SeedSequence([seed, fold.repeat, fold.fold]).generate_state(1)
            for name, estimator in models:
                where = f"repeat {fold.repeat + 1}, fold {fold.fold + 1}"
                bar.set_description(f"{name}, {where}")
                model = Model(name, seeded(estimator, int(states[0] % 2**31)))
                try:
                    done = _predict_fold(task, model, fold, store, data)
                except Exception as error:
                    error.add_note(f"While cross-validating {name!r}, {where}.")
                    raise
                for row, part in zip(model.rows, done.proba, strict=True):
                    proba[row][fold.repeat, fold.test] = part
                seconds[name] += done.seconds / len(folds)
                bar.update()
    return proba, seconds


def _predict_fold(task: Task, model: Model, fold: Fold, store: FoldStore, data: str) -> Done:
    """Fit to the training part and predict the test part, or take over an earlier run."""
    train, test, (name, estimator) = fold.train, fold.test, model
    donors = task.donors_of(train)
    key = fingerprint(data, task.codes[train], train, test, donors, estimator, __version__)
    shape = (len(model.rows), len(test), len(task.classes))
    stored = store.load(name, key)
    if stored is not None and stored.proba.shape == shape and np.isfinite(stored.proba).all():
        return stored
    start = time.perf_counter()
    with calm(), as_it_was():  # whoever's model it is
        fitted, proba = estimator.fit(*task.train(train)), np.zeros(shape, np.float32)
        columns = [task.classes.index(str(c)) for c in fitted.classes_]
        proba[:, :, columns] = fitted.predict_parts(task.test(test))
    bad = ~np.isfinite(proba).all(axis=(0, 2))
    if bad.any():
        raise ValueError(
            f"{type(estimator).__name__} gives probabilities that are not finite for {bad.sum()} "
            f"of {len(bad)} test cells. Fix the model, or leave it out of models=."
        )
    done = Done(proba, time.perf_counter() - start)
    store.save(name, key, done)
    return done
