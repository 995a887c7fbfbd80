"""The data of a cross-validation, and what every model predicts of held-out cells."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scbert_cll import _checks, _keys
from scbert_cll._checks.words import listed
from scbert_cll._evaluation.folds import Fold, Scheme, outer_folds
from scbert_cll._evaluation.intervals import OutOfFold
from scbert_cll._evaluation.leakage.duplicates import profile_hashes
from scbert_cll._evaluation.store import Done, FoldStore, fingerprint
from scbert_cll._process import Bar, as_it_was, calm
from scbert_cll._version import __version__
from scbert_cll.estimators import CellEstimator, ScBERTEstimator, seeded
from scbert_cll.estimators._base import counts_only

PROTEIN = "protein"  # where estimators look for it

type Proba = Mapping[str, np.ndarray]  # by model: (repeats, cells, classes)


@dataclass(frozen=True)
class Task:
    """Counts, labels and donors of the cells.

    Models see rows of it, and nothing else of the user's object.
    """

    cells: AnnData
    codes: np.ndarray
    classes: list[str]
    ordered: bool
    groups: np.ndarray | None
    note: dict[str, object]  # of counts and donors, for the record

    @classmethod
    def of(cls, adata: AnnData, labels_key: str, donor_key: str | None, layer: str | None) -> Self:
        """Of an object that is checked here."""
        adata = _checks.adata.anndata(adata)
        labels = _checks.adata.obs_column(adata, labels_key)
        classes = _checks.adata.classes(labels, labels_key)
        codes = _checks.adata.labels(adata, labels_key, classes, np.arange(adata.n_obs))
        is_added = np.asarray(adata.obs.get(_keys.IS_SYNTHETIC, False), dtype=bool)
        if is_added.any():
            added = adata.obs_names[is_added]
            raise ValueError(
                f"{len(added)} cells were added by resampling ({listed(added)}); copies of a cell "
                "would be on both sides of a fold. Start from the cells as measured; each model "
                "balances its own training cells."
            )
        groups, not_donors = None, {}
        if donor_key is not None:
            donors = _checks.people.donors(adata, donor_key)
            codes = np.where(donors.notna(), codes, -1)
            groups = donors.to_numpy(dtype=object)
            not_donors = _checks.people.left_out(donors)
        counts, note = _checks.counts.noted_counts(adata, layer)
        cells = counts_only(adata, counts)
        totals = sparse.csr_matrix(cells.X).sum(axis=1).A1
        _checks.adata.no_empty_cells(totals, adata, _checks.counts.slot_name(layer))
        ordered = bool(getattr(labels.dtype, "ordered", False))  # of categories
        return cls(cells, codes, classes, ordered, groups, {**note, **not_donors})

    @property
    def counts(self) -> sparse.csr_matrix:
        """Raw counts, cells × genes."""
        return sparse.csr_matrix(self.cells.X)

    def folds(self, scheme: Scheme, n_splits: int, n_repeats: int, seed: int) -> list[Fold]:
        """Folds of the cells that have a donor, where there are donors.

        No expression profile may be on both sides of one.
        """
        rows, donors = np.arange(len(self.codes)), None
        if self.groups is not None:
            rows = np.flatnonzero(pd.notna(self.groups))
            donors = self.groups[rows].astype(str)
        profile, folds = pd.factorize(profile_hashes(self.counts))[0], []
        seeds = range(seed, seed + n_repeats)
        parts = outer_folds(self.codes[rows], donors, scheme, n_splits, seeds)
        for repeat, fold, train, test in parts:
            folds.append(Fold(repeat, fold, rows[train], rows[test]))
            shared = np.intersect1d(profile[rows[train]], profile[rows[test]])
            if len(shared):
                names = self.cells.obs_names[np.isin(profile, shared)]
                raise ValueError(
                    f"{len(names)} cells have the same counts as another one on the other side of "
                    f"a fold ({listed(names)}): copies of a cell in training and test make any "
                    f"model look good. Remove them; tl.leakage_audit lists them."
                )
        return folds

    def donors_of(self, rows: np.ndarray) -> list[str] | None:
        """Donor of each of these cells."""
        return None if self.groups is None else self.groups[rows].tolist()

    def train(self, rows: np.ndarray) -> tuple[AnnData, pd.Series, pd.Series | None]:
        """Cells, labels and donors of a training part."""
        cells = self.cells[rows].copy()
        y = pd.Series(self._named(self.codes[rows]), cells.obs_names)
        donors = None if self.groups is None else pd.Series(self.groups[rows], y.index)
        return cells, y, donors

    def test(self, rows: np.ndarray) -> AnnData:
        """Cells of a test part, without proteins; a name may tell its donor."""
        cells = self.cells[rows].copy()
        cells.obsm.clear()
        cells.obs_names = [f"cell{i}" for i in range(cells.n_obs)]
        return cells

    def called(self, proba: np.ndarray) -> pd.Categorical[str]:
        """The most probable class of each labelled cell, from probabilities (cells, classes)."""
        return self._named(np.where(self.codes >= 0, proba.argmax(1), -1))

    def _named(self, codes: np.ndarray) -> pd.Categorical[str]:
        classes = pd.Index(self.classes)
        return pd.Categorical.from_codes(codes, classes, ordered=self.ordered)

    def out_of_fold(self, proba: Proba, baselines: list[str], folds: Sequence[Fold]) -> OutOfFold:
        """Predictions (repeats, cells, classes) of the labelled cells by model."""
        scored = self.codes >= 0
        folds_of = np.full((folds[-1].repeat + 1, len(scored)), -1)
        for fold in folds:
            folds_of[fold.repeat, fold.test] = fold.fold
        y, of_cells = self.codes[scored], folds_of[:, scored]
        donors = None if self.groups is None else self.groups[scored]
        of_models = {name: values[:, scored] for name, values in proba.items()}
        labels = self.classes, self.ordered, y, donors
        return OutOfFold(*labels, of_models, baselines, of_cells)

    def fold_table(self, folds: Sequence[Fold]) -> pd.DataFrame:
        """Who trains and who is tested in each fold."""
        rows = []
        for repeat, fold, train, test in folds:
            donors = map(self.donors_of, (train, test))
            trained, tested = (set(names or ()) for names in donors)
            codes = self.codes[train][self.codes[train] >= 0]
            absent = [name for i, name in enumerate(self.classes) if i not in codes]
            note = f"no training cell of {listed(absent)}" if absent else ""
            row = repeat, fold, ", ".join(sorted(tested)), len(trained), len(tested)
            rows.append((*row, len(codes), len(test), note))
        columns = ["repeat", "fold", "test_donors", "n_train_donors", "n_test_donors"]
        columns += ["n_train", "n_test", "note"]
        return pd.DataFrame(rows, columns=columns).rename(index=str)


class Model(NamedTuple):
    """An estimator and its name."""

    name: str
    estimator: CellEstimator

    @property
    def rows(self) -> list[str]:
        """Rows of the tables that it fills: its own, and one for each part of it."""
        return [self.name, *(f"{self.name}_{part}" for part in self.estimator.parts)]

    @property
    def baselines(self) -> list[str]:
        """Rows of any other model, and that of the linear part of ours."""
        if not isinstance(self.estimator, ScBERTEstimator):
            return self.rows
        return [row for row in self.rows if row == f"{self.name}_linear"]


def predict(
    task: Task, models: list[Model], folds: Sequence[Fold], store: FoldStore, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Out-of-fold probabilities (repeats, cells, classes) and mean seconds per fold, by model."""
    shape = (folds[-1].repeat + 1, len(task.codes), len(task.classes))
    rows = [row for model in models for row in model.rows]
    proba = {row: np.full(shape, np.nan, np.float32) for row in rows}
    seconds = dict.fromkeys((model.name for model in models), 0.0)
    protein = np.asarray(task.cells.obsm.get(PROTEIN, np.zeros(0)))
    counts, genes = task.counts, list(task.cells.var_names)
    data = fingerprint(counts.data, counts.indices, counts.indptr, genes, protein)
    with Bar(total=len(folds) * len(models), unit="fit", disable=None) as bar:
        for fold in folds:
            entropy = np.random.SeedSequence([seed, fold.repeat, fold.fold])
            of_fold = int(entropy.generate_state(1)[0] % 2**31)
            where = f"repeat {fold.repeat + 1}, fold {fold.fold + 1}"
            for name, estimator in models:
                bar.set_description(f"{name}, {where}")
                model = Model(name, seeded(estimator, of_fold))
                try:
                    done = _run_one(task, model, fold, store, data)
                except Exception as error:
                    error.add_note(f"While cross-validating {name!r}, {where}.")
                    raise
                for row, part in zip(model.rows, done.proba, strict=True):
                    proba[row][fold.repeat, fold.test] = part
                seconds[name] += done.seconds / len(folds)
                bar.update()
    return proba, seconds


def _run_one(task: Task, model: Model, fold: Fold, store: FoldStore, data: str) -> Done:
    """Fit to the training part and predict the test part, or take over an earlier run."""
    _, _, train, test = fold
    name, estimator = model
    given = task.codes[train], train, test, task.donors_of(train)
    key = fingerprint(data, *given, estimator, __version__)
    shape = (len(model.rows), len(test), len(task.classes))
    stored = store.load(name, key)
    if stored and stored.proba.shape == shape and np.isfinite(stored.proba).all():
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
